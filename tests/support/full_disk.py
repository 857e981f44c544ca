"""Install and remove on a disk that is full, in a mount namespace of its own.

`unshare -rm python full_disk.py FOLDER OLD ID NEW ID STEP_BYTES`: a tmpfs is mounted on
FOLDER/prefix, the old bundle installed, the tmpfs made too small for the new one, and larger step
by step until that is installed. Then, at each turn with not a byte free: back to the old one,
nothing removed, the old one removed, everything removed. Prints one JSON object: `installed`, for
each size the exit code, the number of `current`, which was complete, and the last phase that began;
`removed`, for each turn the exit code and the generations that were left; `left`, what is there at
the end.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
_PAGE = 4096


def main(arguments: list[str]) -> None:
    """Run all sizes and print what came of each."""
    sys.path.insert(0, str(CHECKOUT))
    from llava_pack.cli import removal
    from llava_pack.format.errors import PackError
    from llava_pack.format.progress import Silent
    from llava_pack.target import generations, installer, journal
    from tests.support.site import complete

    folder, old, old_id, new, new_id, step = arguments
    prefix = Path(folder, "prefix")
    prefix.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "none", prefix], check=True)

    def install(bundle: str, expect: str) -> tuple[int, str]:
        steps = [""]
        record = journal.record

        def heard(prefix: Path, step: str, **facts: Any) -> None:
            steps.append(step)
            record(prefix, step, **facts)

        journal.record = heard
        request = installer.InstallRequest(bundle=Path(bundle), expect=expect, prefix=prefix)
        try:
            installer.install(request, Silent())
        except PackError as error:
            return int(error.exit_code), steps[-1]
        finally:
            journal.record = record
        return 0, steps[-1]

    assert install(old, old_id)[0] == 0
    said = subprocess.run(["du", "-sk", prefix], capture_output=True, text=True, check=True)
    size = int(said.stdout.split()[0]) * 1024 // _PAGE * _PAGE
    found: list[tuple[int, int | None, str]] = []
    while not found or found[-1][0] != 0:
        size += int(step)
        subprocess.run(["mount", "-o", f"remount,size={size}", prefix], check=True)
        code, last = install(new, new_id)
        complete(prefix)
        found.append((code, generations.current_number(prefix, "tiny"), last))

    def without_room(remove: Callable[..., object], *arguments: Any, **more: Any) -> list[int]:
        code = 0
        with Path(prefix, "filler").open("ab", buffering=0) as filler, suppress(OSError):
            while filler.write(bytes(_PAGE)):
                pass
        try:
            remove(prefix, *arguments, Silent(), **more)
        except PackError as error:
            code = int(error.exit_code)
        return [code, *(item.number for item in generations.listing(prefix))]

    removed = [
        without_room(removal.revert, None, None),
        without_room(removal.gc, keep=2),
        without_room(removal.gc, keep=1),
        without_room(removal.uninstall, None),
    ]
    left = sorted(path.name for path in prefix.iterdir())
    sys.stdout.write(json.dumps({"installed": found, "removed": removed, "left": left}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
