"""`llava-pack build`: a recipe becomes a bundle."""

import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AcceptLicense, AsJson
from llava_pack.cli.language import translated
from llava_pack.cli.laptop.options import PackOptions
from llava_pack.cli.laptop.side import need_laptop
from llava_pack.cli.parameters import expanded
from llava_pack.cli.signing_keys import PassphraseFile, ask_passphrase, read_passphrase
from llava_pack.format.errors import UsageError
from llava_pack.format.text import human_bytes
from llava_pack.shells import pasted

if TYPE_CHECKING:
    from llava_pack.assemble.card import Card
    from llava_pack.assemble.planning import BuildOptions, Plan
    from llava_pack.assemble.signing import Signer
    from llava_pack.fetch.python_archive import PythonArchive
    from llava_pack.recipe import Recipe


@expanded
def build(
    *,
    pack: PackOptions,
    out: Annotated[
        Path | None, typer.Option(help="The bundle's folder. Default: ./RECIPE-bundle")
    ] = None,
    python_archive: Annotated[
        Path | None,
        typer.Option(help="A standalone CPython .tar.gz to include, with the top folder python/."),
    ] = None,
    python_sha256: Annotated[
        str | None, typer.Option(help="Expected SHA-256 of --python-archive.")
    ] = None,
    locked: Annotated[
        Path | None, typer.Option(help="Build exactly what this lock from `llava-pack lock` pins.")
    ] = None,
    record: Annotated[
        bool | None,
        typer.Option(
            "--record/--no-record",
            help="Run the packed model and record known answers. "
            "Default: yes if torch is installed.",
        ),
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(help="Sign with this private key, from `llava-pack keygen`.", metavar="KEY"),
    ] = None,
    passphrase_file: PassphraseFile = None,
    accept_license: AcceptLicense = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace another bundle that is in the folder.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be fetched, and exit.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a model and its packages into one verified bundle.

    It first prompts for licences that must be accepted, and before it replaces another bundle;
    without a terminal, pass --accept-license and --replace.
    HF_ENDPOINT, HF_TOKEN, proxies and the index settings of uv and pip are honoured. An interrupted
    build resumes. The network is required; torch is required only to quantize, to merge an adapter
    (in a clone: `uv tool install ".[quantize]"`) and to record known answers (`".[serve]"`).

    \b
    Examples:
      llava-pack build llava-v1.5-7b
      llava-pack build llava-v1.5-7b --target gpu01.json
      llava-pack build llava-v1.5-7b --locked llava.lock.json
      llava-pack build llava-v1.5-7b --cuda 13 --out /media/usb/llava
      llava-pack build llava-v1.5-7b --quantize nf4
      llava-pack build llava-v1.5-7b --runtime upstream --accept-license Llama-2-Community
      llava-pack build llava-v1.5-7b --model ~/Downloads/llava-v1.5-7b --tower ~/Downloads/clip
      llava-pack build llava-v1.5-7b --sign release.key
      llava-pack build demo --dry-run
    """
    need_laptop("build")
    from dataclasses import replace as changed

    from llava_pack.assemble.build import build as build_bundle
    from llava_pack.assemble.planning import plan_build
    from llava_pack.fetch.cache import Cache

    if passphrase_file is not None and sign is None:
        raise UsageError(
            "there is no key that it could open", subject="--passphrase-file", hint="add --sign KEY"
        )
    archive = archive_of(python_archive, python_sha256)
    request = _request(pack, out, archive, locked)
    request = changed(request, record=record, replace=replace)
    signer = None if sign is None else _open_signer(sign, passphrase_file)
    if dry_run:
        _show_plan(plan_build(request, Cache(), console.progress()), as_json=as_json)
        return
    request = changed(request, replace=may_replace(request))
    request = changed(request, accepted=accepted_terms(request.recipe.value, accept_license or []))
    card = build_bundle(request, Cache(), console.progress(), signer)
    _tell(card)
    if as_json:
        console.document("bundle", vars(card))
        return
    console.say()
    for line in card.lines():
        console.data(line)


def _tell(card: "Card") -> None:
    """Say what became of the folder and of the disk."""
    if card.replaced == card.bundle_id:
        console.say(f"{card.bundle}: unchanged, it held the bundle with this id before")
    elif card.replaced is not None:
        console.say(f"{card.bundle}: replaced the bundle with the id {card.replaced}")
    if card.shared_bytes:
        shared, size = human_bytes(card.shared_bytes), human_bytes(card.size_bytes)
        console.say(f"{shared} of {size} are shared with the cache or with other bundles")


def may_replace(request: "BuildOptions") -> bool:
    """Return whether another bundle in the folder may be replaced; on a terminal a person is asked.

    Raises:
        UsageError: another bundle is there, and it may not be.
    """
    from llava_pack.assemble.build import check_replaced
    from llava_pack.assemble.seal import standing_bundle

    try:
        check_replaced(request)
    except UsageError:
        standing = standing_bundle(request.out)
        if standing is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        console.say(f"{request.out} holds {standing}")
        if not typer.confirm(translated("Replace it?"), err=True):
            raise
        return True
    return request.replace


def accepted_terms(recipe: "Recipe", given: Collection[str]) -> frozenset[str]:
    """Return the licences that are accepted: those given, and those that a person says yes to.

    Raises:
        AccessError: one that has to be accepted is not; without a terminal nobody is asked.
        UsageError: what is given is no licence of the recipe.
    """
    from llava_pack.assemble.terms import check_accepted, gated

    accepted = set(given)
    if sys.stdin.isatty() and sys.stderr.isatty():
        for name, licence in gated(recipe).items():
            if name in accepted:
                continue
            console.say(f"{recipe.name} is under {name}: {licence.url}")
            if typer.confirm(translated(f"Do you accept the terms of {name}?"), err=True):
                accepted.add(name)
    check_accepted(recipe, accepted, pasted(["llava-pack", *sys.argv[1:]]))
    return frozenset(accepted)


def archive_of(path: Path | None, sha256: str | None) -> "PythonArchive | None":
    """Return the CPython that is given by hand, if one is."""
    from llava_pack.fetch.python_archive import open_archive

    if path is not None:
        return open_archive(path, sha256)
    if sha256 is not None:
        raise UsageError(
            "there is no archive to compare it with",
            subject="--python-sha256",
            hint="add --python-archive FILE",
        )
    return None


def _request(
    pack: PackOptions, out: Path | None, archive: "PythonArchive | None", locked: Path | None
) -> "BuildOptions":
    """Return what is asked for: of a lock, exactly that."""
    from dataclasses import replace

    from llava_pack.assemble.planning import locked_options
    from llava_pack.lock.document import read_lock

    typed = pack.asked
    if archive is not None:
        if pack.python not in {"", archive.minor, archive.version}:
            raise UsageError(
                f"the archive holds Python {archive.version}, got {pack.python}",
                subject="--python",
                hint="leave out --python, or --python-archive",
            )
        typed = replace(typed, python=None)
        pack = replace(pack, python=archive.minor)
    request = pack.request(out)
    request = replace(request, python_archive=archive)
    if locked is None:
        return request
    answers = locked.with_name(f"{locked.name}.answers.json")
    return locked_options(replace(request, answers=answers), read_lock(locked), typed)


def _open_signer(key: Path, passphrase_file: Path | None) -> "Signer":
    """Open the key before anything is fetched: a passphrase is asked for once."""
    from llava_pack.assemble.signing import is_encrypted, open_key

    if not is_encrypted(key):
        if passphrase_file is not None:
            raise UsageError(
                f"{key} has no passphrase", subject="--passphrase-file", hint="leave it out"
            )
        console.say(f"! {key} has no passphrase: anyone who can read it can sign")
        return open_key(key, "")
    if passphrase_file is not None:
        return open_key(key, read_passphrase(passphrase_file))
    return open_key(key, ask_passphrase(f"passphrase of {key}"))


def _show_plan(plan: "Plan", *, as_json: bool) -> None:
    weights = {str(one.pinned): one.weight_sizes for one in plan.sources.values()}
    wheels = [f"{wheel.name} {wheel.version}" for wheel in plan.packages.wheels]
    if as_json:
        fields = {"recipe": plan.recipe.name, "weights": weights, "wheels": wheels}
        python = {
            "version": plan.packages.python.version,
            "carried": plan.packages.python.archive is not None,
        }
        console.document("plan", {**fields, "python": python})
        return
    for source, files in weights.items():
        console.verbatim(source)
        for name, size_bytes in files.items():
            console.verbatim(f"  {name:<44}{human_bytes(size_bytes):>12}")
    carried = "carried" if plan.packages.python.archive is not None else "the target's own"
    console.data(f"Python {plan.packages.python.version}, {carried}")
    console.data(f"{len(wheels)} wheels: {', '.join(wheels)}")
