"""A picture's file as it lies on a disk: its bytes, not decoded; no library is needed for that."""

import re
import stat
from pathlib import Path

from llava_pack.engine.inputs.picture_formats import NAMES, format_of
from llava_pack.engine.limits import Limits
from llava_pack.format.errors import UsageError, reason_of
from llava_pack.format.text import human_bytes

ACCEPTED = f"expected a {NAMES} file"
SMALLER = "make it smaller and try again: `ask` and `chat` do so with --shrink"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:", re.ASCII)


def read_picture_bytes(path_text: str, limits: Limits | None = None) -> bytes:
    """Return the bytes of a picture's file, not decoded; one byte more than allowed at most.

    Raises:
        UsageError: a URL, no such file, or not a regular file.
    """
    limits = limits or Limits()
    if _URL.match(path_text):
        raise UsageError(
            "expected a picture file, got a URL",
            subject=path_text,
            hint="download it first, then pass the path of the file",
        )
    path = Path(path_text).expanduser()
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"not a regular file; {ACCEPTED}", subject=path_text)
        with path.open("rb") as file:
            return file.read(limits.size_bytes + 1)
    except (OSError, ValueError, RuntimeError) as error:
        why = reason_of(error)
        raise UsageError(f"cannot read the picture: {why}", subject=path_text) from error


def check_picture_size(data: bytes, limits: Limits | None = None) -> None:
    """Check how large a picture's file is.

    Raises:
        UsageError: it is over the limit.
    """
    most = (limits or Limits()).size_bytes
    if len(data) > most:
        raise UsageError(
            f"the picture is too large: at most {human_bytes(most)} are allowed", hint=SMALLER
        )


def read_picture_to_send(path_text: str) -> bytes:
    """Return the bytes of a picture's file for a server, which decodes and checks them itself.

    Raises:
        UsageError: as `read_picture_bytes`; the file is over the limit, or not a picture by its
            first bytes.
    """
    data = read_picture_bytes(path_text)
    try:
        check_picture_size(data)
    except UsageError as error:
        raise UsageError(error.message, subject=path_text, hint=error.hint) from error
    if format_of(data) is None:
        raise UsageError(f"not a picture; {ACCEPTED}", subject=path_text)
    return data
