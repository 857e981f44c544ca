"""Pictures scaled for a tower in bounded memory, whatever their shape: strip by strip, or a part.

Pillow scales rows first and columns after, each row by itself. So rows that are scaled strip by
strip give the same bytes as the whole, which need never be there.

Source: Pillow src/libImaging/Resample.c.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

Colour = tuple[int, ...]
_STRIP_ROWS = 256
"""Rows of a padded picture that are there at a time."""
_WHOLE_PIXELS = 4 << 20
"""Up to here a picture is scaled whole before its middle is cut out, as LLaVA's own code does."""
_REACH = 3
"""Pixels on either side that the widest filter, Lanczos, looks at."""


def scaled_square(
    image: Image.Image, size: tuple[int, int], colour: Colour, resample: Image.Resampling
) -> Image.Image:
    """Return a picture in the middle of a square of one colour, scaled to (width, height).

    The square itself, 300 MB for the longest pictures, is never there; the result is the same to
    the bit as if it had been.
    """
    if image.width == image.height:
        return image.resize(size, resample)
    side = max(image.size)
    narrow = Image.new("RGB", (size[0], side))
    for top, strip in _strips(image, side, colour):
        narrow.paste(strip.resize((size[0], strip.height), resample), (0, top))
    return narrow.resize(size, resample)


def _strips(image: Image.Image, side: int, colour: Colour) -> Iterator[tuple[int, Image.Image]]:
    """Yield the rows of the square, some at a time, each time with where they begin."""
    before, above = (side - image.width) // 2, (side - image.height) // 2
    for top in range(0, side, _STRIP_ROWS):
        strip = Image.new("RGB", (side, min(_STRIP_ROWS, side - top)), colour)
        strip.paste(image, (before, above - top))
        yield top, strip


def scaled_centre(
    image: Image.Image, shortest_edge: int, crop: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """Return a picture with its shortest edge scaled; of a very long one, only the middle.

    Args:
        image: of any shape.
        shortest_edge: pixels of the shorter side once scaled.
        crop: (height, width) that will be cut out of the middle.
        resample: the filter.
    """
    scaled = _scaled(image.size, shortest_edge)
    if math.prod(scaled) <= _WHOLE_PIXELS:
        return image.resize(scaled, resample)
    across = _Middle.of(image.width, scaled[0], crop[1])
    down = _Middle.of(image.height, scaled[1], crop[0])
    part = image.crop((across.first, down.first, across.last, down.last))
    box = (across.begin, down.begin, across.end, down.end)
    return part.resize((across.length, down.length), resample, box=box)


def _scaled(size: tuple[int, int], shortest_edge: int) -> tuple[int, int]:
    width, height = size
    long = int(shortest_edge * max(size) / min(size))
    return (shortest_edge, long) if width <= height else (long, shortest_edge)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Middle:
    """The middle of a side once scaled, and what of the picture it is made from.

    Attributes:
        first: the first pixel that is looked at, those that a filter reaches included.
        last: the one after the last.
        begin: where the middle begins, in pixels after `first`.
        end: where it ends.
        length: of the middle once scaled.
    """

    first: int
    last: int
    begin: float
    end: float
    length: int

    @classmethod
    def of(cls, side: int, scaled: int, crop: int) -> "_Middle":
        """Return the middle of a side that is scaled and of which `crop` pixels will be cut."""
        length = min(crop, scaled)
        step, start = side / scaled, (scaled - length) // 2
        begin, end = start * step, (start + length) * step
        reach = math.ceil(_REACH * max(step, 1.0)) + 1
        first = max(0, math.floor(begin) - reach)
        last = min(side, math.ceil(end) + reach)
        return cls(first=first, last=last, begin=begin - first, end=end - first, length=length)
