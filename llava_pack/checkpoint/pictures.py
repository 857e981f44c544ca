"""How a checkpoint wants its pictures: sizes, colours and tiles, by its small files. Pure.

Source: transformers models/clip and models/siglip image processors (which values there are, and
their defaults); haotian-liu/LLaVA llava/mm_utils.py (image_aspect_ratio).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llava_pack.checkpoint.defects import shown
from llava_pack.checkpoint.tiling import Tiling, tiling
from llava_pack.checkpoint.values import is_number, refusal
from llava_pack.checkpoint.vision import TowerRules

PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Files that can say how pictures are prepared."""
MAX_SIDE = 4096
"""Pixels along a tower's picture; more than any tower reads, few enough for any memory."""
_FILE = "preprocessor_config.json"
_SQUARE, _PADDED = (None, "square"), "pad"
_BICUBIC, _FILTERS = 3, range(4)
_RANGES = {"image_mean": (0, 1), "image_std": (0.001, 10), "rescale_factor": (1e-6, 1)}
"""What numbers can be; pixels would be infinite, or none at all, with others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureRules:
    """What becomes of a picture before the tower sees it.

    Attributes:
        height: of what the tower sees, in pixels.
        width: the same.
        shortest_edge: pixels that the shorter side is scaled to before the middle is cut out; None
            where the whole picture is squashed instead.
        mean: of each colour, from 0 to 1.
        std: the same.
        factor: that makes 0 to 1 of 0 to 255.
        resample: Pillow's number of the filter.
        pad: whether pictures are put on a square of the mean colour first.
        tiling: how they are cut into tiles, None where each is one.
    """

    height: int
    width: int
    shortest_edge: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    factor: float
    resample: int
    pad: bool
    tiling: Tiling | None = None


def picture_rules(
    preprocessor: Mapping[str, Any], config: Mapping[str, Any], tower: TowerRules
) -> PictureRules:
    """Return what a checkpoint's small files say of pictures.

    Args:
        preprocessor: how the tower wants them.
        config: the checkpoint's config.json in the original keys.
        tower: what sees them.

    Raises:
        CheckpointError: a value is missing, unknown or contradicts another.
    """
    aspect = config.get("image_aspect_ratio")
    tiles = str(aspect).startswith("anyres")
    if not tiles and aspect not in (*_SQUARE, _PADDED):
        raise refusal(
            f"image_aspect_ratio is {shown(aspect)}, expected pad, square, anyres, or none at all"
        )
    if not preprocessor:
        raise refusal("is missing", subject=_FILE)
    side = tower.image_size
    try:
        edge, height, width = _sides(preprocessor)
        mean, std = (_colour(key, preprocessor[key]) for key in ("image_mean", "image_std"))
        factor = _number("rescale_factor", preprocessor.get("rescale_factor", 1 / 255))
    except (KeyError, TypeError, ValueError) as error:
        raise refusal("not the preprocessor of a CLIP or SigLIP model", subject=_FILE) from error
    if (height, width) != (side, side):
        raise refusal(
            f"pictures become {width}x{height}, the tower takes {side}x{side}", subject=_FILE
        )
    _check_steps(preprocessor, cuts=edge is not None)
    return PictureRules(
        height=height,
        width=width,
        shortest_edge=edge,
        mean=mean,
        std=std,
        factor=factor,
        resample=_resample(preprocessor),
        pad=aspect == _PADDED,
        tiling=tiling(config, tower) if tiles else None,
    )


def preprocessor_of(configs: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return how pictures are prepared, by a folder's parsed files; empty where none says it.

    Source: transformers 5 processing_utils.py (saves it inside processor_config.json).
    """
    nested = configs.get("processor_config.json", {}).get("image_processor")
    inner = nested if isinstance(nested, Mapping) else {}
    return configs.get("preprocessor_config.json", inner)


def _check_steps(preprocessor: Mapping[str, Any], *, cuts: bool) -> None:
    """Refuse a preprocessor that leaves out a step, which would make other pictures."""
    steps = ("do_resize", "do_rescale", "do_normalize", *(("do_center_crop",) if cuts else ()))
    for step in steps:
        if preprocessor.get(step) is False:
            raise refusal(f"{step} is False, expected true", subject=_FILE)


def _sides(preprocessor: Mapping[str, Any]) -> tuple[int | None, int, int]:
    """Return what the shorter side is scaled to, and the (height, width) that are left.

    Raises:
        KeyError, TypeError, ValueError: they are not there, or no sizes.
    """
    size = preprocessor.get("size", 224)
    if isinstance(size, Mapping) and "height" in size:  # SigLIP's, which cuts nothing
        return None, _side(size["height"]), _side(size["width"])
    edge = _side(size["shortest_edge"] if isinstance(size, Mapping) else size)
    crop = preprocessor.get("crop_size", 224)
    height, width = (crop["height"], crop["width"]) if isinstance(crop, Mapping) else (crop, crop)
    return edge, _side(height), _side(width)


def _side(value: object) -> int:
    if type(value) is not int or not 0 < value <= MAX_SIDE:
        raise ValueError(value)
    return value


def _colour(key: str, values: Iterable[Any]) -> tuple[float, float, float]:
    red, green, blue = (_number(key, value) for value in values)
    return red, green, blue


def _number(key: str, value: Any) -> float:
    least, most = _RANGES[key]
    if not is_number(value, least, most):
        text = f"{key} has {shown(value)}, expected a number from {least:g} to {most:g}"
        raise refusal(text, subject=_FILE)
    return float(value)


def _resample(preprocessor: Mapping[str, Any]) -> int:
    """Return the filter's number.

    Source: Pillow Image.Resampling (0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic).
    """
    value = preprocessor.get("resample", _BICUBIC)
    if value not in _FILTERS:
        raise refusal(f"resample is {shown(value)}, expected 0 to 3 (3 is bicubic)", subject=_FILE)
    return int(value)
