"""Pictures for the tower; equality with transformers is in tests/functional."""

import math

import numpy as np
import pytest

from llava_pack.checkpoint.pictures import PictureRules, picture_rules
from llava_pack.checkpoint.vision import tower_rules
from llava_pack.engine.inputs.image_processor import PictureProcessor
from llava_pack.engine.port import Picture
from llava_pack.format.errors import CheckpointError

CONFIG = {
    "crop_size": {"height": 14, "width": 14},
    "size": {"shortest_edge": 14},
    "image_mean": [0.5, 0.25, 0.0],
    "image_std": [0.5, 0.5, 1.0],
}


VISION = {"image_size": 14, "patch_size": 7}


def rules(config=CONFIG, aspect: str | None = "pad") -> PictureRules:
    return picture_rules(config, {"image_aspect_ratio": aspect}, tower_rules({}, VISION))


def processor(aspect: str | None = "pad") -> PictureProcessor:
    return PictureProcessor(rules(aspect=aspect))


def test_old_and_new_spellings_are_one():
    old = {**CONFIG, "size": 14, "crop_size": 14}
    assert rules(old) == rules()


@pytest.mark.parametrize("size", [(14, 14), (3, 50), (50, 3), (1, 1), (1, 200)])
@pytest.mark.parametrize("aspect", ["pad", None])
def test_every_picture_gets_the_towers_size(size, aspect):
    picture = Picture(*size, bytes(size[0] * size[1] * 3))
    pixels = processor(aspect).tiles(picture)[0]
    assert (pixels.shape, pixels.dtype) == ((3, 14, 14), np.float32)


def test_padding_has_the_mean_colour():
    white = Picture(14, 2, b"\xff" * 84)
    pixels = processor().tiles(white)[0]
    assert np.allclose(pixels[:, 0, 0], [(127 / 255 - 0.5) / 0.5, (63 / 255 - 0.25) / 0.5, 0])
    assert np.allclose(pixels[:, 7, 7], [1, 1.5, 1])


def test_without_padding_the_middle_is_cut_out():
    column = b"\x00" * 42 + b"\xff" * 42 + b"\x00" * 42
    pixels = processor(None).tiles(Picture(42, 14, column * 14))[0]
    assert pixels[2].min() > 0.9


def test_other_aspects_are_refused():
    with pytest.raises(CheckpointError, match="image_aspect_ratio"):
        processor("stretch")


@pytest.mark.parametrize("missing", ["image_mean", "image_std"])
def test_a_config_without_numbers_is_refused(missing):
    config = {key: value for key, value in CONFIG.items() if key != missing}
    with pytest.raises(CheckpointError, match="not the preprocessor of a CLIP or SigLIP model"):
        rules(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 1_000_000},
        {"size": {"shortest_edge": 0}},
        {"crop_size": {"height": -1, "width": 14}},
        {"crop_size": 10**9},
        {"image_mean": [0.5]},
        {"image_std": [0.5, 0.5, 0.5, 0.5]},
    ],
)
def test_sizes_that_would_take_all_memory_are_refused(changes):
    with pytest.raises(CheckpointError, match="not the preprocessor of a CLIP or SigLIP model"):
        rules({**CONFIG, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_size": 16}, "pictures become 16x16, the tower takes 14x14"),
        ({"do_normalize": False}, "do_normalize is False, expected true"),
        ({"do_center_crop": False}, "do_center_crop is False, expected true"),
        ({"resample": 9}, "resample is 9, expected 0 to 3"),
        *(({"image_mean": [0.5, 0.5, odd]}, f"image_mean has {odd}") for odd in (math.nan, 256)),
        *(({"image_std": [0.5, 0.5, odd]}, f"image_std has {odd}") for odd in (0, 1e-320, None)),
        *(({"rescale_factor": odd}, f"rescale_factor has {odd}") for odd in (math.inf, 0, None)),
        ({"rescale_factor": 10**400}, "rescale_factor has 10000"),
    ],
)
def test_what_would_make_other_pictures_is_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        rules({**CONFIG, **changes})


def test_siglip_squashes_the_whole_picture():
    siglip = {"size": {"height": 14, "width": 14}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    column = b"\x00" * 42 + b"\xff" * 42 + b"\x00" * 42
    picture = Picture(42, 14, column * 14)
    seen = PictureProcessor(rules(siglip, None)).tiles(picture)[0]
    assert (seen[:, :, 0].max(), seen[:, :, 7].min(), seen[:, :, 13].max()) == (-1, 1, -1)
