"""`llava-pack build`: a recipe becomes a bundle."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llava_pack.cli import console
from llava_pack.cli.keys import PassphraseFile, ask_passphrase, read_passphrase
from llava_pack.cli.laptop import need_laptop

if TYPE_CHECKING:
    from llava_pack.assemble.planning import Plan
    from llava_pack.assemble.signing import Signer


def build(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a .toml file.")],
    out: Annotated[
        Path | None, typer.Option(help="The bundle's folder. Default: ./RECIPE-bundle")
    ] = None,
    target: Annotated[
        Path | None,
        typer.Option(help="The server's facts, as `llava-pack probe` saved them; they decide."),
    ] = None,
    platform: Annotated[
        str | None,
        typer.Option(
            help="What the target accepts: ARCH-manylinux_2_N. Default: x86_64-manylinux_2_35"
        ),
    ] = None,
    python: Annotated[
        str,
        typer.Option(help="Python of the target: a version, or 'target' to carry none."),
    ] = "",
    cuda: Annotated[
        Literal["none", "12", "13"] | None,
        typer.Option(help="CUDA of the target's torch; 12 needs driver 525.60, 13 needs 580.65."),
    ] = None,
    torch_backend: Annotated[
        str | None, typer.Option(help="Passed on to uv, for example cpu, cu126 or pypi.")
    ] = None,
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
    exclude_newer: Annotated[
        str | None, typer.Option(help="Take no package that is newer than this date, 2026-10-31.")
    ] = None,
    runtime: Annotated[
        Literal["transformers", "upstream"] | None,
        typer.Option(help="What serves there: llava-pack's engine, or LLaVA's own code."),
    ] = None,
    layout: Annotated[
        Literal["original", "hf"] | None,
        typer.Option(
            "--format",
            help="Layout of the packed model: as published, or transformers-native (hf).",
        ),
    ] = None,
    quantize: Annotated[
        Literal["nf4", "int8"] | None,
        typer.Option(help="Quantize while packing, on this machine's CPU; implies --format hf."),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Put an adapter or a projector into its base.")
    ] = False,
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fetch a model, its vision tower and its packages, and write one verified bundle.

    Terms of use that have to be accepted are asked about first; without a terminal,
    --accept-license says yes. HF_ENDPOINT, HF_TOKEN, proxies and the index settings of uv and pip
    are honoured. A build that was stopped goes on where it was. Needs the network; needs torch only
    to quantize, to merge an adapter (`pip install 'llava-pack[quantize]'`) and to record known
    answers (`pip install 'llava-pack[serve]'`).

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
    from llava_pack.assemble.build import release_now
    from llava_pack.assemble.planning import BuildOptions, locked_options, plan_build
    from llava_pack.assemble.runtimes import with_runtime
    from llava_pack.cli.acceptance import accepted_terms
    from llava_pack.fetch.cache import Cache
    from llava_pack.fetch.python_archive import open_archive
    from llava_pack.lock.choice import Asked, choose
    from llava_pack.lock.document import read_lock
    from llava_pack.lock.profile import read_profile
    from llava_pack.recipe import find_recipe, read_recipe

    path = find_recipe(recipe)
    asked = with_runtime(read_recipe(path), runtime)
    profile = None if target is None else read_profile(target)
    said = Asked(
        platform=platform,
        python=python or None,
        cuda=cuda,
        torch_backend=torch_backend,
        exclude_newer=exclude_newer,
    )
    given = None if python_archive is None else open_archive(python_archive, python_sha256)
    if given is not None and not python:
        said = replace(said, python=given.minor)
    options = BuildOptions(
        recipe=path,
        out=out if out is not None else Path(f"{asked.name}-bundle"),
        choice=choose(asked, profile, said),
        release=release_now(os.environ, time.time()),
        target=profile,
        runtime=runtime,
        format=layout,
        quantize=quantize,
        merge=merge,
        python_archive=given,
        record=record,
        answers=None if locked is None else locked.with_name(f"{locked.name}.answers.json"),
    )
    if locked is not None:
        plain = said if given is None else replace(said, python=None)
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
    weights = {
        str(source.listing.pinned): {
            name: source.listing.sizes[name] for name in source.weight_files()
        }
        for source in plan.sources.values()
    }
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
            console.data(f"  {name:<44}{console.human_bytes(size_bytes):>12}")
    carried = "carried" if plan.packages.python.archive is not None else "the target's own"
    console.data(f"Python {plan.packages.python.version}, {carried}")
    console.data(f"{len(wheels)} wheels: {', '.join(wheels)}")
