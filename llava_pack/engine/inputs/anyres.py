"""The tiles of a picture: scaled into its layout, put on black, and cut.

Source: haotian-liu/LLaVA llava/mm_utils.py (resize_and_pad_image, divide_to_patches,
process_anyres_image).
"""

import math

from PIL import Image

from llava_pack.checkpoint.tiling import Size, Tiling


def cut(image: Image.Image, tiling: Tiling) -> list[Image.Image]:
    """Return the whole picture squashed to a tile, and the tiles of its layout, row by row."""
    side, (width, height) = tiling.side, tiling.layout(image.size)
    laid = _laid(image, (width, height))
    boxes = [
        (left, top, left + side, top + side)
        for top in range(0, height, side)
        for left in range(0, width, side)
    ]
    return [image.resize((side, side)), *(laid.crop(box) for box in boxes)]


def _laid(image: Image.Image, size: Size) -> Image.Image:
    """Return a picture scaled into a size, with black around it."""
    by_width, by_height = size[0] / image.width, size[1] / image.height
    if by_width < by_height:
        scaled = (size[0], min(math.ceil(image.height * by_width), size[1]))
    else:
        scaled = (min(math.ceil(image.width * by_height), size[0]), size[1])
    laid = Image.new("RGB", size, (0, 0, 0))
    place = ((size[0] - scaled[0]) // 2, (size[1] - scaled[1]) // 2)
    laid.paste(image.resize(scaled), place)
    return laid
