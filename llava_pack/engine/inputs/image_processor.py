"""Pictures as the vision tower wants them, bit by bit as LLaVA's own code makes them.

Pad to a square with the tower's mean colour, or cut into tiles; then scale the shortest edge and
cut the centre, or squash; scale to 0..1, normalise.

Source: haotian-liu/LLaVA llava/mm_utils.py (padding); transformers 4.37
models/clip/image_processing_clip.py, models/siglip/image_processing_siglip.py (the rest).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from llava_pack.checkpoint.pictures import PictureRules
from llava_pack.engine.inputs.anyres import cut
from llava_pack.engine.inputs.scaling import scaled_centre, scaled_square
from llava_pack.engine.port import Picture

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PictureProcessor:
    """Makes what the tower sees of pictures."""

    rules: PictureRules

    def tiles(self, picture: Picture, *, square: bool = False) -> "NDArray[np.float32]":
        """Return what the tower sees of a picture, as (tiles, 3, height, width).

        Args:
            picture: of any size.
            square: it is padded to a square and is one tile, however others are seen.
        """
        rules, image = self.rules, _image(picture)
        if rules.tiling is not None and not square:
            return np.stack([self._normal(tile) for tile in cut(image, rules.tiling)])
        if not (square or rules.pad):
            return self._normal(image)[None]
        colour = tuple(int(value * 255) for value in rules.mean)
        scaled = scaled_square(image, self._whole, colour, self._filter)
        return self._normalised(scaled)[None]

    @property
    def _filter(self) -> Image.Resampling:
        return Image.Resampling(self.rules.resample)

    @property
    def _whole(self) -> tuple[int, int]:
        """Return the (width, height) that a whole square is scaled to."""
        edge = self.rules.shortest_edge
        return (self.rules.width, self.rules.height) if edge is None else (edge, edge)

    def _normal(self, image: Image.Image) -> "NDArray[np.float32]":
        edge = self.rules.shortest_edge
        if edge is None:
            return self._normalised(image.resize(self._whole, self._filter))
        crop = self.rules.height, self.rules.width
        return self._normalised(scaled_centre(image, edge, crop, self._filter))

    def _normalised(self, image: Image.Image) -> "NDArray[np.float32]":
        rules = self.rules
        pixels = _centre(np.asarray(image), (rules.height, rules.width))
        scaled = (pixels.astype(np.float64) * rules.factor).astype(np.float32)
        mean, std = (np.asarray(values, np.float32) for values in (rules.mean, rules.std))
        return np.ascontiguousarray(((scaled - mean) / std).transpose(2, 0, 1))


def _image(picture: Picture) -> Image.Image:
    return Image.frombytes("RGB", (picture.width, picture.height), memoryview(picture.rgb))


def _centre(pixels: "NDArray[np.uint8]", crop: tuple[int, int]) -> "NDArray[np.uint8]":
    """Return the middle (height, width), with black around it where the picture is smaller."""
    height, width = pixels.shape[:2]
    top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
    if top >= 0 and left >= 0:
        return pixels[top : top + crop[0], left : left + crop[1]]
    padded_height, padded_width = max(crop[0], height), max(crop[1], width)
    padded = np.zeros((padded_height, padded_width, 3), pixels.dtype)
    above, before = -(-(padded_height - height) // 2), -(-(padded_width - width) // 2)
    padded[above : above + height, before : before + width] = pixels
    top, left = top + above, left + before
    return padded[max(0, top) : top + crop[0], max(0, left) : left + crop[1]]
