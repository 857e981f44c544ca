"""Pictures from outside: checked by their header, then decoded to RGB."""

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import TypeVar

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from llava_pack.engine.inputs.jpeg_scans import scans_of
from llava_pack.engine.inputs.picture_colours import as_rgb, only_colour
from llava_pack.engine.inputs.picture_files import ACCEPTED, SMALLER, check_picture_size
from llava_pack.engine.inputs.picture_formats import FORMATS, format_of
from llava_pack.engine.limits import Limits
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE, PictureMode
from llava_pack.engine.port import Picture
from llava_pack.format.errors import UsageError

T = TypeVar("T")
_PLUGINS = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
"""Loaded here: a decoder behind its fence has them before anything comes in."""
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
with contextlib.suppress(ImportError):  # an extra
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
_READ = tuple(one.pillow_name for one in FORMATS if one.pillow_name in Image.OPEN)
_JPEG = ("JPEG", "MPO")
"""Pillow's names: MPO is a JPEG with more behind it, as many telephones save it."""
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
    RuntimeError,
    struct.error,
    zlib.error,
)


def decode_picture(
    data: bytes, limits: Limits | None = None, mode: PictureMode = DEFAULT_PICTURE_MODE
) -> Picture:
    """Return the picture in `data`: first frame, upright by its EXIF orientation, in RGB.

    Args:
        data: the file's bytes.
        limits: what it may be.
        mode: how it becomes RGB where it is something else.

    Raises:
        UsageError: not a picture, damaged, or larger than the limits; nothing is decoded before
            its header was found to be within them.
    """
    return open_picture(data, limits or Limits(), lambda image: _upright_rgb(image, mode))


def measure_picture(data: bytes, limits: Limits | None = None) -> tuple[int, int]:
    """Return the (width, height) that the header of a picture tells; nothing is decoded.

    Raises:
        UsageError: as `decode_picture`, as far as the header shows it.
    """
    return open_picture(data, limits or Limits(), lambda image: image.size)


def open_picture(data: bytes, limits: Limits, use: Callable[[Image.Image], T]) -> T:
    """Return what is made of a picture that was opened, its header within the limits.

    Raises:
        UsageError: not a picture, damaged, or larger than the limits.
    """
    check_picture_size(data, limits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=_READ) as image:
                _check_size(image.size, limits)
                if image.format in _JPEG:
                    _check_scans(data, limits)
                return use(image)
        except UsageError:
            raise
        except Image.DecompressionBombError as error:  # the library's own bound, in open()
            raise _too_large("it has too many pixels", limits) from error
        except _DAMAGE as error:
            raise _unreadable(data) from error


def _unreadable(data: bytes) -> UsageError:
    """Return the error for what Pillow cannot read, which may be for want of a library."""
    kind = format_of(data)
    if kind is not None and kind.pillow_name not in _READ:
        return UsageError(
            f"{kind.name} pictures cannot be read by this installation: the package pillow-heif is "
            "missing",
            hint='save it as a JPEG; or build the bundle with requirements = ["pillow-heif"] in '
            "[runtime] of its recipe (in a clone: uv tool install --force '.[serve,heic]')",
        )
    return UsageError(f"not a picture, or a damaged one; {ACCEPTED}")


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise UsageError(f"the picture has no pixels: {width}x{height}")
    if width * height > limits.pixels or max(size) > limits.side_pixels:
        raise _too_large(f"{width}x{height}", limits)


def _check_scans(data: bytes, limits: Limits) -> None:
    """Refuse a JPEG of very many scans: each goes over all pixels."""
    if scans_of(data, limits.scans) > limits.scans:
        raise UsageError(
            f"the picture has too many scans: more than the {limits.scans} that are allowed",
            hint="save it again as a plain JPEG",
        )


def _too_large(got: str, limits: Limits) -> UsageError:
    return UsageError(
        f"the picture is too large: {got}, at most "
        f"{limits.pixels / 1e6:g} megapixels and {limits.side_pixels} on a side are allowed",
        hint=SMALLER,
    )


def _upright_rgb(image: Image.Image, mode: PictureMode) -> Picture:
    image.seek(0)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    upright = as_rgb(image, mode)
    return Picture(upright.width, upright.height, upright.tobytes(), only_colour(upright))
