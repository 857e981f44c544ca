"""Pictures as the vision tower wants them, bit by bit as LLaVA's own code makes them.

Pad to a square with the tower's mean colour, or cut into tiles; then scale the shortest edge, cut
the centre, scale to 0..1, normalise.

Source: haotian-liu/LLaVA llava/mm_utils.py (padding); transformers 4.37
models/clip/image_processing_clip.py (the rest).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from llava_pack.engine.inputs.anyres import Tiling
from llava_pack.engine.inputs.scaling import scaled_centre, scaled_square
from llava_pack.engine.port import Picture
from llava_pack.format.errors import CheckpointError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ASPECTS = ("pad", "square", "anyres", None)
"""Values of `image_aspect_ratio` that are understood."""
MAX_SIDE = 4096
"""Pixels along a tower's picture; more than any CLIP reads, few enough for any memory."""
_FILTER = Image.Resampling.BICUBIC


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureProcessor:
    """What preprocessor_config.json says, and whether pictures are padded to a square or tiled."""

    shortest_edge: int
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    factor: float
    pad: bool
    tiling: Tiling | None = None

    def tiles(self, picture: Picture) -> "NDArray[np.float32]":
        """Return what the tower sees of a picture, as (tiles, 3, height, width)."""
        if self.tiling is None:
            return self.pixels(picture)[None]
        return np.stack([self._normal(tile) for tile in self.tiling.cut(_image(picture))])

    def pixels(self, picture: Picture) -> "NDArray[np.float32]":
        """Return the whole picture as (3, height, width)."""
        image = _image(picture)
        if not self.pad:
            return self._normal(image)
        colour = tuple(int(value * 255) for value in self.mean)
        size = (self.shortest_edge, self.shortest_edge)
        return self._normalised(scaled_square(image, size, colour, _FILTER))

    def _normal(self, image: Image.Image) -> "NDArray[np.float32]":
        return self._normalised(scaled_centre(image, self.shortest_edge, self.crop, _FILTER))

    def _normalised(self, image: Image.Image) -> "NDArray[np.float32]":
        cut = _centre(np.asarray(image), self.crop)
        scaled = (cut.astype(np.float64) * self.factor).astype(np.float32)
        normal = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))


def picture_processor(config: Mapping[str, Any], aspect: str | None) -> PictureProcessor:
    """Return the processor that a tower's preprocessor_config.json describes.

    Args:
        config: the parsed file.
        aspect: `image_aspect_ratio` of the model.

    Raises:
        CheckpointError: the file or the aspect is of a kind that is not supported.
    """
    if aspect not in ASPECTS:
        names = ", ".join(str(name) for name in ASPECTS)
        raise CheckpointError(f"image_aspect_ratio is {aspect!r}, expected one of: {names}")
    try:
        size, crop = config.get("size", 224), config.get("crop_size", 224)
        edge = size if isinstance(size, int) else size["shortest_edge"]
        height, width = (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
        sides = [_side(side) for side in (edge, height, width)]
        mean, std = (_colour(config[key]) for key in ("image_mean", "image_std"))
        return PictureProcessor(
            shortest_edge=sides[0],
            crop=(sides[1], sides[2]),
            mean=mean,
            std=std,
            factor=float(config.get("rescale_factor", 1 / 255)),
            pad=aspect == "pad",
        )
    except (KeyError, TypeError, ValueError) as error:
        message = "not the preprocessor of a CLIP model"
        raise CheckpointError(message, subject="preprocessor_config.json") from error


def _side(value: object) -> int:
    """Return pixels along a picture.

    Raises:
        ValueError: they are none, or too many.
    """
    if type(value) is not int or not 0 < value <= MAX_SIDE:
        raise ValueError(value)
    return value


def _colour(values: Iterable[float]) -> tuple[float, ...]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


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
