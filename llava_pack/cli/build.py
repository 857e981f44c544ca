"""`llava-pack build`: a recipe becomes a bundle."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.asked import (
    AsJson,
    Cuda,
    ExcludeNewer,
    Layout,
    Merge,
    Platform,
    Python,
    Quantize,
    RecipeName,
    Runtime,
    Target,
    TorchBackend,
    Wanted,
)
from llava_pack.cli.laptop import need_laptop
from llava_pack.cli.signing_keys import PassphraseFile, ask_passphrase, read_passphrase
from llava_pack.format.text import human_bytes

if TYPE_CHECKING:
    from llava_pack.assemble.planning import Plan
    from llava_pack.assemble.signing import Signer


def build(
    recipe: RecipeName,
    out: Annotated[
        Path | None, typer.Option(help="The bundle's folder. Default: ./RECIPE-bundle")
    ] = None,
    target: Target = None,
    platform: Platform = None,
    python: Python = "",
    cuda: Cuda = None,
    torch_backend: TorchBackend = None,
    python_archive: Annotated[
        Path | None,
        typer.Option(help="A standalone CPython .tar.gz to carry, top folder python/."),
    ] = None,
    python_sha256: Annotated[
        str | None, typer.Option(help="What --python-archive must hash to.")
    ] = None,
    locked: Annotated[
        Path | None, typer.Option(help="A lock from `llava-pack lock`: build exactly that.")
    ] = None,
    exclude_newer: ExcludeNewer = None,
    runtime: Runtime = None,
    layout: Layout = None,
    quantize: Quantize = None,
    merge: Merge = False,
    record: Annotated[
        bool | None,
        typer.Option(
            "--record/--no-record",
            help="Run the packed model and record its known answers. Default: where torch is.",
        ),
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(help="Sign with this private key, from `llava-pack keygen`.", metavar="KEY"),
    ] = None,
    passphrase_file: PassphraseFile = None,
    accept_license: Annotated[
        list[str] | None,
        typer.Option(help="A licence whose terms you accept, by its id; once for each."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched, and stop.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a model, its vision tower and its packages, and write one verified bundle.

    Terms of use that have to be accepted are asked about first; without a terminal,
    --accept-license says yes. HF_ENDPOINT, HF_TOKEN, proxies and the index settings of uv and pip
    are honoured. A build that was stopped goes on where it was. Needs the network; needs torch only
    to quantize, to merge an adapter (`pip install '.[quantize]'` in a clone) and to record known
    answers (`pip install '.[serve]'`).

    \b
    Examples:
      llava-pack build llava-v1.5-7b
      llava-pack build llava-v1.5-7b --target gpu01.json
      llava-pack build llava-v1.5-7b --locked llava.lock.json
      llava-pack build llava-v1.5-7b --cuda 13 --out /media/usb/llava
      llava-pack build llava-v1.5-7b --quantize nf4
      llava-pack build llava-v1.5-7b --runtime upstream --accept-license Llama-2-Community
      llava-pack build llava-v1.5-7b --sign release.key
      llava-pack build demo --dry-run
    """
    from dataclasses import replace

    need_laptop("build")
    from llava_pack.assemble.build import build as build_bundle
    from llava_pack.assemble.planning import locked_options, plan_build
    from llava_pack.cli.acceptance import accepted_terms
    from llava_pack.fetch.cache import Cache
    from llava_pack.fetch.python_archive import open_archive
    from llava_pack.lock.document import read_lock

    given = None if python_archive is None else open_archive(python_archive, python_sha256)
    wanted = Wanted(
        recipe=recipe,
        target=target,
        platform=platform,
        python=python,
        cuda=cuda,
        torch_backend=torch_backend,
        exclude_newer=exclude_newer,
        runtime=runtime,
        layout=layout,
        quantize=quantize,
        merge=merge,
    )
    if given is not None and not python:
        wanted = replace(wanted, python=given.minor)
    asked, options = wanted.options(out)
    options = replace(
        options,
        python_archive=given,
        record=record,
        answers=None if locked is None else locked.with_name(f"{locked.name}.answers.json"),
    )
    if locked is not None:
        plain = wanted.said if given is None else replace(wanted.said, python=None)
        options = locked_options(options, read_lock(locked), plain)
    signer = None if sign is None else _open_signer(sign, passphrase_file)
    progress = console.progress()
    if dry_run:
        _show_plan(plan_build(options, Cache(), progress), as_json=as_json)
        return
    options = replace(options, accepted=accepted_terms(asked, accept_license or []))
    card = build_bundle(options, Cache(), progress, signer)
    if as_json:
        console.document("bundle", vars(card))
        return
    console.say()
    for line in card.lines():
        console.data(line)


def _open_signer(key: Path, passphrase_file: Path | None) -> "Signer":
    """Open the key before anything is fetched: a passphrase is asked for once."""
    from llava_pack.assemble.signing import is_encrypted, open_key

    if not is_encrypted(key):
        console.say(f"! {key} has no passphrase: whoever reads it can sign")
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
        console.data(source)
        for name, size_bytes in files.items():
            console.data(f"  {name:<44}{human_bytes(size_bytes):>12}")
    carried = "carried" if plan.packages.python.archive is not None else "the target's own"
    console.data(f"Python {plan.packages.python.version}, {carried}")
    console.data(f"{len(wheels)} wheels: {', '.join(wheels)}")
