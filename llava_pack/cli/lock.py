"""`llava-pack lock`: every revision and wheel of a bundle, pinned in one file."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from llava_pack.cli import console
from llava_pack.cli.laptop import need_laptop
from llava_pack.format.errors import UsageError


def lock(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a .toml file.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The lock. Default: ./RECIPE.lock.json")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="The server's facts, as `llava-pack probe` saved them.")
    ] = None,
    platform: Annotated[
        str | None, typer.Option(help="What the target accepts: ARCH-manylinux_2_N.")
    ] = None,
    python: Annotated[
        str, typer.Option(help="Python of the target: a version, or 'target' to carry none.")
    ] = "",
    cuda: Annotated[
        Literal["none", "12", "13"] | None, typer.Option(help="CUDA of the target's torch.")
    ] = None,
    torch_backend: Annotated[
        str | None, typer.Option(help="Passed on to uv, for example cpu, cu126 or pypi.")
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
        typer.Option("--format", help="Layout of the packed model."),
    ] = None,
    quantize: Annotated[
        Literal["nf4", "int8"] | None, typer.Option(help="Quantize while packing.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Put an adapter or a projector into its base.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Pin what a bundle will hold: commits, wheels by hash, Python, release time.

    `build RECIPE --locked FILE` makes the same bundle from it, byte for byte, with the same
    llava-pack. A lock holds no host, no token and no path of this machine.

    \b
    Examples:
      llava-pack lock llava-v1.5-7b --target gpu01.json
      llava-pack lock llava-v1.5-7b --exclude-newer 2026-10-31 --out llava.lock.json
      llava-pack build llava-v1.5-7b --locked llava.lock.json
    """
    import os
    import tempfile
    import time

    need_laptop("lock")
    from llava_pack.assemble.build import release_now
    from llava_pack.assemble.locking import lock_of
    from llava_pack.assemble.planning import BuildOptions, plan_build
    from llava_pack.assemble.runtimes import with_runtime
    from llava_pack.fetch.cache import Cache
    from llava_pack.lock.choice import Asked, choose
    from llava_pack.lock.document import render_lock
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
    cache = Cache()
    with tempfile.TemporaryDirectory(prefix="llava-pack-lock-") as folder:
        options = BuildOptions(
            recipe=path,
            out=Path(folder, "bundle"),
            choice=choose(asked, profile, said),
            release=release_now(os.environ, time.time()),
            target=profile,
            runtime=runtime,
            format=layout,
            quantize=quantize,
            merge=merge,
        )
        pinned = lock_of(plan_build(options, cache, console.progress()), options, cache)
    file = out if out is not None else Path(f"{asked.name}.lock.json")
    try:
        file.write_text(render_lock(pinned), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", subject=str(file)) from error
    if as_json:
        console.document("lock", {"path": str(file), "packages": len(pinned.packages)})
    else:
        console.data(f"{file}: {len(pinned.packages)} packages, {len(pinned.sources)} sources")
    console.say(f"next: llava-pack build {recipe} --locked {file}")
