"""Pictures that lie on the server already: `file://` URLs below the one folder that was opened.

A path is resolved first, links and all, and must then lie below the folder. What is opened is the
resolved path, step by step from the folder and through no link: whoever exchanges a step for a link
in between gets an error, and not a file from elsewhere. Only what is a regular file is read, and no
more of it than a picture may have.

Source: RFC 8089 (file: URLs).
"""

import os
import re
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from llava_pack.format.errors import UsageError
from llava_pack.format.text import readable

_FILE = re.compile(r"\s*file:(.*)", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"//(?:localhost)?(?=/)", re.IGNORECASE)
_MAX_CHARS = 3 * 4096
"""As many bytes as Linux takes for a path, each of them percent-encoded."""
_STEP = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_ELSEWHERE = "the file:// URL does not lead to a file below the folder of --picture-root"


def file_path(url: str) -> str | None:
    """Return the path in a file: URL as it was written; None for any other URL.

    >>> file_path("file:///a/b.png"), file_path("FILE://localhost/a"), file_path("data:,a")
    ('/a/b.png', '/a', None)
    """
    match = _FILE.fullmatch(url)
    if match is None:
        return None
    host = _HOST.match(match[1])
    return match[1][host.end() :] if host else match[1]


@dataclass(frozen=True)
class PictureRoot:
    """A folder of this machine whose pictures may be asked about; resolved, and absolute."""

    folder: Path

    def read(self, path_text: str, max_bytes: int) -> bytes:
        """Return the bytes of a picture.

        Args:
            path_text: of a file: URL, percent-encoded still.
            max_bytes: the most that a picture's file may have.

        Raises:
            UsageError: it names another host, or no regular file below the folder, or one that is
                too large.
        """
        if not path_text.startswith("/") or path_text.startswith("//"):
            raise UsageError(
                "a file:// URL of another host, or without a whole path; "
                "expected file:///folder/picture.png"
            )
        if len(path_text) > _MAX_CHARS:  # each step of it would be looked up
            raise UsageError(_ELSEWHERE)
        return self._read(self._steps(os.fsdecode(unquote_to_bytes(path_text))), max_bytes)

    def _read(self, steps: Sequence[str], max_bytes: int) -> bytes:
        try:
            with ExitStack() as opened:
                place = _opened(self.folder, os.O_DIRECTORY, opened)
                for step in steps[:-1]:
                    place = _opened(step, os.O_DIRECTORY, opened, place)
                return _bytes(_opened(steps[-1], os.O_NONBLOCK, opened, place), max_bytes)
        except OSError as error:
            raise UsageError(_ELSEWHERE) from error

    def _steps(self, path: str) -> tuple[str, ...]:
        """Return the way from the folder to a file, without links.

        Raises:
            UsageError: it does not lie below.
        """
        try:
            below = Path(os.path.realpath(path)).relative_to(self.folder)
        except (ValueError, OSError) as error:  # elsewhere, or no path at all
            raise UsageError(_ELSEWHERE) from error
        if not below.parts:
            raise UsageError(_ELSEWHERE)
        return below.parts


def _opened(step: str | Path, flags: int, opened: ExitStack, place: int | None = None) -> int:
    descriptor = os.open(step, _STEP | flags, dir_fd=place)
    opened.callback(os.close, descriptor)
    return descriptor


def _bytes(descriptor: int, max_bytes: int) -> bytes:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(_ELSEWHERE)
    if found.st_size > max_bytes:
        most, got = f"{max_bytes} bytes", f"{found.st_size} bytes"
        raise UsageError(readable(f"the picture is too large: {got}, at most {most} are allowed"))
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return file.read(max_bytes)
