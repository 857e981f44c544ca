"""The log of `serve`: one file, always in the same place, that does not grow without bound.

It holds when requests came and how they ended, under their ids, and what engines said. It never
holds a question, an answer or a picture.
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import TextIO

from llava_pack.format.errors import ServeError, reason_of

MAX_BYTES = 16 * 1024 * 1024
NAME = "serve.log"
_FORMAT = "%(asctime)sZ %(process)d %(levelname)s %(name)s: %(message)s"


def log_path(run_directory: Path) -> Path:
    """Return where the log is, beside the folder of run states.

    >>> log_path(Path("/opt/llava-pack/run")).as_posix()
    '/opt/llava-pack/logs/serve.log'
    """
    return run_directory.parent / "logs" / NAME


@contextmanager
def kept(path: Path | None) -> Iterator[None]:
    """Write what llava-pack logs to a file while the block runs; stderr keeps the errors.

    Raises:
        ServeError: the file cannot be written.
    """
    if path is None:
        yield
        return
    try:
        file = LogFile(path)
        path.touch(mode=0o600)
    except OSError as error:
        why = reason_of(error)
        raise ServeError(f"the log cannot be written: {why}", subject=str(path)) from error
    root, ours = logging.getLogger(), logging.getLogger("llava_pack")
    levels = [(handler, handler.level) for handler in root.handlers]
    before = ours.level
    for handler in root.handlers:
        handler.setLevel(logging.CRITICAL + 1 if _is_stderr(path) else logging.ERROR)
    root.addHandler(file)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(file)
        for handler, level in levels:
            handler.setLevel(level)
        ours.setLevel(before)
        file.close()


def _is_stderr(path: Path) -> bool:
    """Say whether stderr is that file: in the background, where errors would be in it twice."""
    try:
        return os.path.samestat(os.fstat(sys.stderr.fileno()), path.stat())
    except (OSError, ValueError, AttributeError):
        return False


class LogFile(WatchedFileHandler):
    """Appends to a file of mode 0600; a full one is kept once, as `serve.log.1`.

    Several servers of one account may write to it: each notices when another has begun anew.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._max_bytes = max_bytes
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        formatter = logging.Formatter(_FORMAT, "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        self.setFormatter(formatter)

    def _open(self) -> TextIOWrapper:
        os.close(os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        return super()._open()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, in a new file where the old one is full."""
        path = Path(self.baseFilename)
        with contextlib.suppress(OSError):  # it is made now, or another server begins anew
            if path.stat().st_size >= self._max_bytes:
                path.replace(path.with_name(f"{path.name}.1"))
        super().emit(record)


def last_lines(path: Path, stream: TextIO, count: int) -> list[str]:
    """Return the last lines of a log, also from the file before it.

    Args:
        path: of the log.
        stream: the log, open at its beginning; it is left at its end.
        count: how many lines at most.
    """
    before = path.with_name(f"{path.name}.1")
    older = before.read_text(encoding="utf-8", errors="replace") if before.is_file() else ""
    lines = [*older.splitlines(), *stream.read().splitlines()]
    return lines[-count:] if count else []
