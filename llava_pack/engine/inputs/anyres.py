"""Pictures in tiles ("anyres"): which layout fits best, the tiles, and the tokens that they take.

The picture is scaled into the layout that keeps most of it, put on black, and cut; the whole
picture, squashed to one tile, comes first. Rows of features that saw only black are left out, and
`image_newline` ends each row.

Source: haotian-liu/LLaVA llava/mm_utils.py (select_best_resolution, resize_and_pad_image,
divide_to_patches, process_anyres_image); llava/model/llava_arch.py (unpad_image).
"""

import ast
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from llava_pack.format.errors import CheckpointError

Merge = Literal["flat", "spatial", "spatial_unpad"]
Size = tuple[int, int]
_MERGES: tuple[Merge, ...] = ("flat", "spatial", "spatial_unpad")
_MAX_TILES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How a model sees pictures in tiles. Sizes are (width, height), as LLaVA writes them.

    Attributes:
        layouts: sizes that a picture is scaled into, in the order of the configuration.
        side: pixels of a tile.
        patches: the tower's patches along a tile.
        merge: `flat` puts tile after tile; the others join them to one picture.
        extra: features of a tile beside its patches, 1 where the class token is kept.
    """

    layouts: tuple[Size, ...]
    side: int
    patches: int
    merge: Merge
    extra: int = 0

    def layout(self, size: Size) -> Size:
        """Return the layout that keeps most of a picture and wastes least; the first of equals."""

        def merit(layout: Size) -> tuple[int, int]:
            scale = min(layout[0] / size[0], layout[1] / size[1])
            scaled = int(size[0] * scale) * int(size[1] * scale)
            kept = min(scaled, size[0] * size[1])
            return kept, kept - layout[0] * layout[1]

        return max(self.layouts, key=merit)

    def grid(self, size: Size) -> tuple[int, int]:
        """Return the (rows, columns) of tiles that a picture is cut into."""
        width, height = self.layout(size)
        return height // self.side, width // self.side

    def cut(self, image: Image.Image) -> list[Image.Image]:
        """Return the whole picture squashed to a tile, and the tiles of its layout, row by row."""
        width, height = self.layout(image.size)
        laid = _laid(image, (width, height))
        boxes = [
            (left, top, left + self.side, top + self.side)
            for top in range(0, height, self.side)
            for left in range(0, width, self.side)
        ]
        whole = image.resize((self.side, self.side))
        return [whole, *(laid.crop(box) for box in boxes)]

    def margins(self, size: Size) -> tuple[int, int]:
        """Return the (rows, columns) of features that saw only black, on either side."""
        rows, columns = (tiles * self.patches for tiles in self.grid(size))
        if self.merge != "spatial_unpad":
            return 0, 0
        width, height = size
        if width / height > columns / rows:
            return (rows - int(height * (columns / width))) // 2, 0
        return 0, (columns - int(width * (rows / height))) // 2

    def tokens(self, size: Size) -> int:
        """Return how many tokens a picture takes."""
        one = self.patches**2 + self.extra
        rows, columns = self.grid(size)
        if self.merge == "flat":
            return one * (1 + rows * columns)
        above, before = self.margins(size)
        height = rows * self.patches - 2 * above
        width = columns * self.patches - 2 * before
        return one + height * (width + (self.merge == "spatial_unpad"))

    @property
    def most_tokens(self) -> int:
        """Return how many tokens a picture takes at most."""
        return max(self.tokens(layout) for layout in self.layouts)


def tiling(config: Mapping[str, Any], vision: Mapping[str, int], crop: Size) -> Tiling:
    """Return the tiling that an original configuration asks for.

    Args:
        config: config.json of the checkpoint, `image_aspect_ratio` is `anyres`.
        vision: `image_size` and `patch_size` of the tower.
        crop: (height, width) that pictures are cut to.

    Raises:
        CheckpointError: a value is missing or not usable.
    """
    merge = config.get("mm_patch_merge_type") or "flat"
    extra = int(config.get("mm_vision_select_feature", "patch") == "cls_patch")
    if merge not in _MERGES or (extra and merge != "flat"):
        known = ", ".join(_MERGES)
        raise CheckpointError(
            f"mm_patch_merge_type is {merge!r}, expected one of {known}; with features of "
            "'cls_patch' only flat",
            subject="config.json",
        )
    side = int(vision["image_size"])
    if crop != (side, side):
        raise CheckpointError(
            f"pictures are cropped to {crop}, the tower takes {side} pixels",
            subject="preprocessor_config.json",
        )
    layouts = _layouts(config.get("image_grid_pinpoints"), side)
    patches = side // int(vision["patch_size"])
    return Tiling(layouts=layouts, side=side, patches=patches, merge=merge, extra=extra)


def _layouts(given: object, side: int) -> tuple[Size, ...]:
    try:
        listed: Any = ast.literal_eval(given) if isinstance(given, str) else given
        layouts = tuple((int(width), int(height)) for width, height in listed)
        usable = layouts and all(_usable(layout, side) for layout in layouts)
    except (TypeError, ValueError, SyntaxError, MemoryError, RecursionError):
        usable = False
    if not usable:
        raise CheckpointError(
            f"image_grid_pinpoints is invalid, expected pairs of multiples of {side}",
            subject="config.json",
        )
    return layouts


def _usable(layout: Size, side: int) -> bool:
    tiles = [edge / side for edge in layout]
    return all(count >= 1 and count.is_integer() for count in tiles) and (
        math.prod(tiles) <= _MAX_TILES
    )


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
