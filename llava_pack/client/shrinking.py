"""Pictures over the limits, scaled down before they are sent: `--shrink` of `ask` and `chat`."""

import io

from PIL import Image, ImageOps

from llava_pack.engine.inputs.picture_colours import as_rgb
from llava_pack.engine.inputs.picture_decoder import measure_picture, open_picture
from llava_pack.engine.inputs.picture_files import read_picture_bytes
from llava_pack.engine.limits import SHRUNK_SIDE, Limits
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE, PictureMode
from llava_pack.format.errors import UsageError

_OWN = Limits(
    size_bytes=1_000_000_000, pixels=400_000_000, side_pixels=100_000, decode_s=0.0, scans=10_000
)
"""What a person's own computer may take in to make it smaller: four bytes a pixel."""
_QUALITY = 95
_PHOTOGRAPHS = ("JPEG", "MPO", "HEIF", "AVIF")


def read_shrunk(path_text: str, mode: PictureMode = DEFAULT_PICTURE_MODE) -> bytes:
    """Return a picture's file, scaled down where it is over the limits.

    Raises:
        UsageError: as `read_picture_bytes`, or it is too large to be scaled down.
    """
    data = read_picture_bytes(path_text, _OWN)
    try:
        return shrunk(data, mode)
    except UsageError as error:
        raise UsageError(error.message, subject=path_text, hint=error.hint) from error


def shrunk(
    data: bytes, mode: PictureMode = DEFAULT_PICTURE_MODE, limits: Limits | None = None
) -> bytes:
    """Return a picture's file as it is, or a smaller one where it is over the limits.

    Args:
        data: the file's bytes.
        mode: how it becomes RGB, if it has to.
        limits: what it may be.

    Raises:
        UsageError: it is not a picture, or too large to be scaled down.
    """
    limits = limits or Limits()
    # Pillow's own bound, of 179 megapixels, is below what cameras make: ours stands in for it.
    Image.MAX_IMAGE_PIXELS = None
    width, height = measure_picture(data, _OWN)
    fits = width * height <= limits.pixels and max(width, height) <= limits.side_pixels
    if fits and len(data) <= limits.size_bytes:
        return data
    return open_picture(data, _OWN, lambda image: _smaller(image, mode, limits.size_bytes))


def _smaller(image: Image.Image, mode: PictureMode, most_bytes: int) -> bytes:
    kind = image.format
    image.draft(
        "RGB", (SHRUNK_SIDE, SHRUNK_SIDE)
    )  # a JPEG is decoded at an eighth of its size, or a half
    image.seek(0)
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    seen = as_rgb(image, mode)
    seen.thumbnail((SHRUNK_SIDE, SHRUNK_SIDE), Image.Resampling.LANCZOS)
    exact = b"" if kind in _PHOTOGRAPHS else _encoded(seen, "PNG")
    return exact if 0 < len(exact) <= most_bytes else _encoded(seen, "JPEG", quality=_QUALITY)


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
