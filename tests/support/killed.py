"""Run one operation of the installer in this process, and kill it (-9) at a chosen point.

`python -I -B killed.py POINT PREFIX OPERATION ARGUMENTS…`, where POINT is `step:N` for the N-th
thing that the journal says, `write:N` for the N-th change to the file system or program started,
or `none`. Prints how many there were, where it is not killed.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
_CHANGES = ("os.rename", "os.remove", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.chmod")
_STARTS = ("subprocess.Popen",)


class Count:
    """Counts points, and kills this process at the chosen one.

    Args:
        at: the number of that point, None for none.
    """

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.seen = 0

    def __call__(self) -> None:
        """Count one point."""
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += 1


def steps(count: Count) -> None:
    """Count before and after whatever the journal says."""
    from llava_pack.assemble.staging import Staging
    from llava_pack.target import journal

    def counted(call: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*args: Any, **facts: Any) -> None:
            count()
            call(*args, **facts)
            count()

        return wrapped

    journal.record = counted(journal.record)
    journal.close = counted(journal.close)
    Staging._write_journal = counted(Staging._write_journal)  # type: ignore[method-assign]


def writes(count: Count) -> None:
    """Count before every change to the file system, and every program that is started."""

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        writing = event == "open" and isinstance(arguments[2], int)
        changing = writing and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if changing or event in (*_CHANGES, *_STARTS):
            count()

    sys.addaudithook(hear)


def run(prefix: Path, operation: str, arguments: list[str]) -> None:
    """Run one operation: install BUNDLE ID, revert [N], gc KEEP, uninstall, build OUT."""
    if operation == "build":
        build(Path(arguments[0]))
        return
    from llava_pack.cli import removal
    from llava_pack.format.progress import Silent
    from llava_pack.target import installer

    if operation == "install":
        bundle, expect = arguments
        request = installer.InstallRequest(bundle=Path(bundle), expect=expect, prefix=prefix)
        installer.install(request, Silent())
    elif operation == "revert":
        removal.revert(prefix, None, int(arguments[0]) if arguments else None, Silent())
    elif operation == "gc":
        removal.gc(prefix, Silent(), keep=int(arguments[0]))
    else:
        removal.uninstall(prefix, None, Silent())


def build(out: Path) -> None:
    """Stage the files of a simulated bundle, group by group, and seal them."""
    from llava_pack.assemble.seal import seal
    from llava_pack.assemble.staging import Staging
    from llava_pack.format.manifest import FileEntry
    from llava_pack.format.progress import Silent
    from tests.support.bundle import BundleSimulator

    simulator = BundleSimulator()
    contents = simulator.payload()
    staging = Staging(out.with_name(f"{out.name}.partial"), Silent())
    for group in sorted({path.split("/")[0] for path in contents}):
        files = {path: data for path, data in contents.items() if path.split("/")[0] == group}

        def make(files: dict[str, bytes] = files) -> Iterator[FileEntry]:
            for path, data in files.items():
                mode = 0o755 if path == "runtime/uv" else 0o644
                yield staging.text(path, data, {"kind": "text"}, mode=mode)

        staging.group(group, [group], make)
    seal(staging, simulator.manifest(contents), out)


def main() -> None:
    """Read the command line, and run."""
    sys.path.insert(0, str(CHECKOUT))
    point, prefix, operation, *arguments = sys.argv[1:]
    kind, _, at = point.partition(":")
    count = Count(int(at) if at else None)
    from llava_pack.cli import removal  # noqa: F401 - imported before anything is counted

    (writes if kind == "write" else steps)(count)
    run(Path(prefix), operation, arguments)
    sys.stdout.write(f"{count.seen}\n")


if __name__ == "__main__":
    main()
