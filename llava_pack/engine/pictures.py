"""Pictures from outside: checked by their header, then decoded to RGB."""

import io
import re
import stat
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from llava_pack.engine.port import Picture
from llava_pack.format.errors import UsageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a picture may be; the side is bounded because pictures are padded to a square."""

    size_bytes: int = 20_000_000
    pixels: int = 25_000_000
    side_pixels: int = 10_000


def decode_picture(data: bytes, limits: Limits | None = None) -> Picture:
    """Return the picture in `data`: first frame, upright by its EXIF orientation, in RGB.

    Raises:
        UsageError: not a picture, damaged, or larger than the limits; nothing is decoded before
            its header was found to be within them.
    """
    limits = limits or Limits()
    if len(data) > limits.size_bytes:
        raise UsageError(
            f"the picture is too large: {len(data)} bytes, at most {limits.size_bytes} are taken",
            hint="make it smaller and try again",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image.size, limits)
                return _upright_rgb(image)
        except UsageError:
            raise
        except Image.DecompressionBombError as error:  # the library's own bound, in open()
            raise _too_large("its pixels are too many", limits) from error
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
            "a picture is given as a file, got a URL",
            subject=path_text,
            hint="download it first, then give the path of the file",
        )
    path = Path(path_text).expanduser()
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"not a regular file; {_ACCEPTED}", subject=path_text)
        with path.open("rb") as file:
            return file.read(limits.size_bytes + 1)
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read the picture: {why}", subject=path_text) from error


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise UsageError(f"the picture has no pixels: {width}x{height}")
    if width * height > limits.pixels or max(size) > limits.side_pixels:
        raise _too_large(f"{width}x{height}", limits)


def _too_large(got: str, limits: Limits) -> UsageError:
    return UsageError(
        f"the picture is too large: {got}, at most "
        f"{limits.pixels / 1e6:g} megapixels and {limits.side_pixels} on a side are taken",
        hint="make it smaller and try again",
    )


def _upright_rgb(image: Image.Image) -> Picture:
    image.seek(0)
    image.load()
    upright = ImageOps.exif_transpose(image).convert("RGB")
    return Picture(upright.width, upright.height, upright.tobytes())
