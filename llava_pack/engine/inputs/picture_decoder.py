"""Pictures from outside: checked by their header, then decoded to RGB."""

import io
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageOps

from llava_pack.engine.limits import Limits
from llava_pack.engine.port import Picture
from llava_pack.format.errors import UsageError, reason_of

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
T = TypeVar("T")
_START_OF_SCAN = b"\xff\xda"
_ACCEPTED = "expected a JPEG, PNG, WebP or GIF file"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:", re.ASCII)
# What Pillow's decoders raise for damaged files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)


def decode_picture(data: bytes, limits: Limits | None = None) -> Picture:
    """Return the picture in `data`: first frame, upright by its EXIF orientation, in RGB.

    Raises:
        UsageError: not a picture, damaged, or larger than the limits; nothing is decoded before
            its header was found to be within them.
    """
    return _opened(data, limits or Limits(), _upright_rgb)


def measure_picture(data: bytes, limits: Limits | None = None) -> tuple[int, int]:
    """Return the (width, height) that the header of a picture tells; nothing is decoded.

    Raises:
        UsageError: as `decode_picture`, as far as the header shows it.
    """
    return _opened(data, limits or Limits(), lambda image: image.size)


def _opened(data: bytes, limits: Limits, use: Callable[[Image.Image], T]) -> T:
    """Return what is made of a picture that was opened, its header within the limits."""
    if len(data) > limits.size_bytes:
        raise UsageError(
            f"the picture is too large: {len(data)} bytes, at most {limits.size_bytes} are allowed",
            hint="make it smaller and try again",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image.size, limits)
                if image.format == "JPEG":
                    _check_scans(data, limits)
                return use(image)
        except UsageError:
            raise
        except Image.DecompressionBombError as error:  # the library's own bound, in open()
            raise _too_large("it has too many pixels", limits) from error
        except _DAMAGE as error:
            raise UsageError(f"not a picture, or a damaged one; {_ACCEPTED}") from error


def read_picture(path_text: str, limits: Limits | None = None) -> Picture:
    """Return the picture in a file.

    Raises:
        UsageError: a URL, no such file, not a regular file, or as `decode_picture` says.
    """
    limits = limits or Limits()
    data = read_picture_bytes(path_text, limits)
    try:
        return decode_picture(data, limits)
    except UsageError as error:
        raise UsageError(error.message, subject=path_text, hint=error.hint) from error


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
            raise UsageError(f"not a regular file; {_ACCEPTED}", subject=path_text)
        with path.open("rb") as file:
            return file.read(limits.size_bytes + 1)
    except (OSError, ValueError, RuntimeError) as error:
        why = reason_of(error)
        raise UsageError(f"cannot read the picture: {why}", subject=path_text) from error


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise UsageError(f"the picture has no pixels: {width}x{height}")
    if width * height > limits.pixels or max(size) > limits.side_pixels:
        raise _too_large(f"{width}x{height}", limits)
    if max(size) > limits.ratio * min(size):
        raise UsageError(
            f"the picture is too narrow: {width}x{height}, at most 1:{limits.ratio} is allowed",
            hint="cut it into parts and try again",
        )


def _check_scans(data: bytes, limits: Limits) -> None:
    """Refuse a JPEG of very many scans; within one, a byte FF is never followed by DA.

    Source: ITU-T T.81, B.1.1.2 (markers), B.1.1.5 (bytes FF within a scan).
    """
    scans = data.count(_START_OF_SCAN)
    if scans > limits.scans:
        raise UsageError(
            f"the picture has too many scans: {scans}, at most {limits.scans} are allowed",
            hint="save it again as a plain JPEG",
        )


def _too_large(got: str, limits: Limits) -> UsageError:
    return UsageError(
        f"the picture is too large: {got}, at most "
        f"{limits.pixels / 1e6:g} megapixels and {limits.side_pixels} on a side are allowed",
        hint="make it smaller and try again",
    )


def _upright_rgb(image: Image.Image) -> Picture:
    image.seek(0)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    upright = image if image.mode == "RGB" else image.convert("RGB")
    return Picture(upright.width, upright.height, upright.tobytes())
