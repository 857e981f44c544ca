"""Colours of a decoded picture: made RGB by either mode, and looked at for being all the same."""

from PIL import Image

from llava_pack.engine.picture_mode import PictureMode
from llava_pack.format.errors import UsageError

_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
_NO_RANGE = ("I", "F")
_WHITE = (255, 255, 255)
_BITS_PER_SAMPLE = 258
"""Source: TIFF 6.0, section 8."""
_LEVELS = 1 << 16


def as_rgb(image: Image.Image, mode: PictureMode) -> Image.Image:
    """Return a picture in RGB.

    Args:
        image: of any mode that a file can have.
        mode: how.

    Raises:
        UsageError: its values have no range that is known.
    """
    if mode == "llava" or (image.mode == "RGB" and not image.has_transparency_data):
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.mode in _NO_RANGE:
        raise UsageError(
            f"the picture has 32-bit grey (Pillow's mode {image.mode}), whose black and white are "
            "not known; expected 8 or 16 bits",
            hint="save it with 8 or 16 bits of grey, for instance as a PNG",
        )
    if image.mode in _DEEP:
        image = _eight_bits(image)
    return _on_white(image) if image.has_transparency_data else image.convert("RGB")


def only_colour(image: Image.Image) -> str:
    """Return the one colour that every pixel of an RGB picture has, empty where there are more.

    >>> only_colour(Image.new("RGB", (2, 2), (255, 255, 255)))
    '#ffffff'
    """
    low, high = zip(*image.getextrema(), strict=True)
    return "#" + bytes(low).hex() if low == high else ""


def _on_white(image: Image.Image) -> Image.Image:
    """Return a picture as it looks on white paper."""
    if image.mode == "La":  # its only way to anything else
        image = image.convert("LA")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    white = Image.new("RGB", image.size, _WHITE)
    white.paste(image, mask=image)
    return white


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit grey as 8 bits, the upper ones: as Pillow itself reads 16-bit colours.

    What the file calls transparent stays so.
    """
    deep, shift = image.convert("I"), _bits(image) - 8
    grey = deep.point([min(value >> shift, 255) for value in range(_LEVELS)], "L")
    if "transparency" not in image.info:
        return grey
    clear = image.info["transparency"]
    alpha = deep.point([255 * (value != clear) for value in range(_LEVELS)], "L")
    return Image.merge("LA", (grey, alpha))


def _bits(image: Image.Image) -> int:
    """Return how many bits of each value a picture uses: a TIFF may say 12."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    return bits if 8 <= bits <= 16 else 16  # those that Pillow reads as 16
