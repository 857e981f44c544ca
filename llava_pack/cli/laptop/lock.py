"""`llava-pack lock`: every revision and wheel of a bundle, pinned in one file."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson
from llava_pack.cli.laptop.options import PackOptions
from llava_pack.cli.laptop.side import need_laptop
from llava_pack.cli.parameters import expanded
from llava_pack.format.errors import UsageError
from llava_pack.shells import pasted

if TYPE_CHECKING:
    from llava_pack.assemble.planning import BuildOptions


@expanded
def lock(
    *,
    pack: PackOptions,
    out: Annotated[Path | None, typer.Option(help="The lock. Default: ./RECIPE.lock.json")] = None,
    as_json: AsJson = False,
) -> None:
    """Pin a bundle's contents: commits, wheels, Python, date.

    `build RECIPE --locked FILE` builds the same bundle from it, byte for byte, with the same
    llava-pack. A lock contains no host, no token and no path of this machine.

    \b
    Examples:
      llava-pack lock llava-v1.5-7b --target gpu01.json
      llava-pack lock llava-v1.5-7b --exclude-newer 2026-10-31 --out llava.lock.json
      llava-pack lock llava-v1.5-7b --model ~/Downloads/llava-v1.5-7b
      llava-pack build llava-v1.5-7b --locked llava.lock.json
    """
    need_laptop("lock")
    from llava_pack.assemble.locking import lock_of
    from llava_pack.assemble.planning import plan_build
    from llava_pack.fetch.cache import Cache
    from llava_pack.lock.document import render_lock

    cache = Cache()
    with tempfile.TemporaryDirectory(prefix="llava-pack-lock-") as folder:
        request = pack.request(Path(folder, "bundle"))
        pinned = lock_of(plan_build(request, cache, console.progress()), request, cache)
    packages = len({wheel.filename for wheel in (*pinned.packages, *pinned.engine)})
    file = out if out is not None else Path(f"{request.recipe.value.name}.lock.json")
    try:
        file.write_bytes(render_lock(pinned).encode())
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", subject=str(file)) from error
    if as_json:
        console.document("lock", {"path": str(file), "packages": packages})
    else:
        console.data(f"{file}: {packages} packages, {len(pinned.sources)} sources")
    again = ["llava-pack", "build", pack.recipe, "--locked", str(file)]
    again += [] if pack.mirror is None else ["--mirror", pack.mirror]
    console.say(f"next: {pasted([*again, *_folders(pack, request)])}")


def _folders(pack: PackOptions, request: "BuildOptions") -> list[str]:
    """Return the options for folders: a lock names them and cannot bring them back."""
    from llava_pack.assemble.model_sources import option_of
    from llava_pack.fetch.directory import DirectorySource

    return [
        word
        for part, text in pack.typed_sources.items()
        if isinstance(request.sources[part], DirectorySource)
        for word in (option_of(part), text)
    ]
