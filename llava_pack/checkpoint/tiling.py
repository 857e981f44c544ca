"""Pictures in tiles ("anyres"): which layout fits best, and the tokens that it takes. Pure.

A picture is scaled into the layout that keeps most of it, put on black, and cut; the whole picture,
squashed to one tile, comes first. Rows of features that saw only black are left out, what is over
the most that a model was trained for is scaled down, and `image_newline` ends each row.

Source: haotian-liu/LLaVA llava/mm_utils.py (select_best_resolution) and llava/model/llava_arch.py
(unpad_image); LLaVA-VL/LLaVA-NeXT, the same files (`anyres_max_N`, pinpoints as text).
"""

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llava_pack.checkpoint.defects import shown
from llava_pack.checkpoint.values import choice, refusal
from llava_pack.checkpoint.vision import TowerRules

Merge = Literal["flat", "spatial", "spatial_unpad"]
Size = tuple[int, int]
MERGES: tuple[Merge, ...] = ("flat", "spatial", "spatial_unpad")
_MAX_TILES = 64
_ANYRES = re.compile(r"anyres(?:_max_([1-9]\d{0,2}))?")
_RANGE = re.compile(r"\((\d{1,2})x(\d{1,2})\),\.\.\.,\((\d{1,2})x(\d{1,2})\)")
_OVER = 1.1
"""Features are scaled down once they are this much over the most, along a side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How a model sees pictures in tiles. Sizes are (width, height), as LLaVA writes them.

    Attributes:
        layouts: sizes that a picture is scaled into, in the order of the configuration.
        side: pixels of a tile.
        patches: the tower's patches along a tile.
        merge: `flat` puts tile after tile; the others join them to one picture.
        extra: features of a tile beside its patches, 1 where the class token is kept.
        most_tiles: joined features are scaled down to those of this many tiles; 0 leaves all.
        rounds: what a float lost is given back before rows are counted, as transformers does.
    """

    layouts: tuple[Size, ...]
    side: int
    patches: int
    merge: Merge
    extra: int = 0
    most_tiles: int = 0
    rounds: bool = False

    @property
    def squares(self) -> bool:
        """Whether of several pictures in a request each is one padded square, in no tiles.

        Source: transformers models/llava_onevision (image and text processor).
        """
        return self.most_tiles > 0

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

    def margins(self, size: Size) -> tuple[int, int]:
        """Return the (rows, columns) of features that saw only black, on either side."""
        rows, columns = (tiles * self.patches for tiles in self.grid(size))
        if self.merge != "spatial_unpad":
            return 0, 0
        width, height = size
        if width / height > columns / rows:
            return (rows - self._whole(height * (columns / width))) // 2, 0
        return 0, (columns - self._whole(width * (rows / height))) // 2

    def _whole(self, features: float) -> int:
        return int(round(features, 7) if self.rounds else features)

    def joined(self, size: Size) -> tuple[int, int]:
        """Return the (rows, columns) of features of the joined tiles, without their black."""
        rows, columns = self.grid(size)
        above, before = self.margins(size)
        return rows * self.patches - 2 * above, columns * self.patches - 2 * before

    def scaled(self, size: Size) -> tuple[int, int]:
        """Return the (rows, columns) of the same, once what is over the most was scaled down."""
        rows, columns = self.joined(size)
        if not self.most_tiles:
            return rows, columns
        over = math.sqrt(rows * columns / (self.most_tiles * self.patches**2))
        return (int(rows // over), int(columns // over)) if over > _OVER else (rows, columns)

    def tokens(self, size: Size, *, square: bool = False) -> int:
        """Return how many tokens a picture takes, in tiles or as one padded square."""
        one = self.patches**2 + self.extra
        if square:
            return one + 1
        if self.merge == "flat":
            rows, columns = self.grid(size)
            return one * (1 + rows * columns)
        height, width = self.scaled(size)
        return one + height * (width + (self.merge == "spatial_unpad"))

    @property
    def most_tokens(self) -> int:
        """Return how many tokens a picture takes at most."""
        if not self.most_tiles:
            return max(self.tokens(layout) for layout in self.layouts)
        one, rows = self.patches**2, max(height for _, height in self.layouts) // self.side
        return one + int(one * self.most_tiles * _OVER**2) + rows * self.patches


def tiling(config: Mapping[str, Any], tower: TowerRules) -> Tiling:
    """Return the tiling that an original configuration asks for.

    Args:
        config: config.json of the checkpoint, whose `image_aspect_ratio` begins with `anyres`.
        tower: what sees the tiles.

    Raises:
        CheckpointError: a value is missing or not usable.
    """
    merge = choice("mm_patch_merge_type", config.get("mm_patch_merge_type") or "flat", MERGES)
    if tower.extra and merge != "flat":
        raise refusal(
            f"mm_patch_merge_type is {merge!r}, expected 'flat' with features of 'cls_patch'"
        )
    aspect = str(config.get("image_aspect_ratio"))
    most = _ANYRES.fullmatch(aspect)
    if most is None:
        raise refusal(f"image_aspect_ratio is {aspect!r}, expected anyres or anyres_max_9")
    return Tiling(
        layouts=pinpoints(config.get("image_grid_pinpoints"), tower.image_size),
        side=tower.image_size,
        patches=tower.patches,
        merge=merge,
        extra=tower.extra,
        most_tiles=int(most[1] or 0) if merge == "spatial_unpad" else 0,
        rounds=bool(config.get("unpad_rounds", False)),
    )


def pinpoints(given: object, side: int) -> tuple[Size, ...]:
    """Return the (width, height) of each layout, in pixels.

    Args:
        given: pairs, the text of a list of them, or `(1x1),...,(6x6)`: tiles from and to.
        side: pixels of a tile.

    Raises:
        CheckpointError: they are none, or no multiples of the side, or far too many tiles.

    >>> pinpoints("(1x1),...,(1x2)", 384)
    ((384, 384), (384, 768))
    """
    try:
        tiles = _RANGE.fullmatch(given) if isinstance(given, str) else None
        if tiles:
            first, second, last, final = (int(number) for number in tiles.groups())
            rows, columns = range(first, last + 1), range(second, final + 1)
            layouts = tuple((row * side, column * side) for row in rows for column in columns)
        else:
            listed: Any = ast.literal_eval(given) if isinstance(given, str) else given
            layouts = tuple((int(width), int(height)) for width, height in listed)
        usable = layouts and all(_usable(layout, side) for layout in layouts)
    except (TypeError, ValueError, SyntaxError, MemoryError, RecursionError, OverflowError):
        usable = False
    if not usable:
        raise refusal(
            f"image_grid_pinpoints is {shown(given)}, expected pairs of multiples of {side}"
        )
    return layouts


def _usable(layout: Size, side: int) -> bool:
    tiles = [edge / side for edge in layout]
    return all(count >= 1 and count.is_integer() for count in tiles) and (
        math.prod(tiles) <= _MAX_TILES
    )
