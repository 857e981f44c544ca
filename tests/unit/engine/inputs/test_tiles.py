"""Which layout a picture takes, what of it is seen, and which configurations are refused."""

import random

import numpy as np
import pytest
from PIL import Image

from llava_pack.engine.inputs.anyres import Tiling, tiling
from llava_pack.format.errors import CheckpointError

PUBLISHED = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
VISION = {"image_size": 336, "patch_size": 14}
CROP = (336, 336)


def published(**changes) -> Tiling:
    config = {
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": PUBLISHED,
        "mm_patch_merge_type": "spatial_unpad",
        **changes,
    }
    return tiling(config, VISION, CROP)


def test_a_published_count():
    """Source: LLaVA 1.2.2 gives 1560 tokens to a picture of 500x300."""
    assert published().tokens((500, 300)) == 1560


@pytest.mark.parametrize(
    ("size", "layout"),
    [
        ((336, 336), (336, 672)),  # the first of equals
        ((500, 300), (672, 336)),
        ((1200, 300), (1008, 336)),
        ((300, 1200), (336, 1008)),
        ((2000, 2000), (672, 672)),
        ((10_000, 1), (336, 672)),  # nothing is kept of it in any
    ],
)
def test_the_layout_keeps_most_and_wastes_least(size, layout):
    assert published().layout(size) == layout


def test_no_picture_takes_more_than_is_promised():
    seen = published()
    chance = random.Random(7)
    sizes = [(chance.randrange(1, 3000), chance.randrange(1, 3000)) for _ in range(500)]
    assert all(576 <= seen.tokens(size) <= seen.most_tokens for size in sizes)
    assert seen.most_tokens == 576 + 48 * 49


def test_a_line_keeps_the_whole_picture_only():
    """Every row of tiles saw nothing but black, as in LLaVA's own code."""
    assert published().tokens((700, 1)) == 576


def test_tiles_joined_are_the_picture_in_the_middle_of_black():
    image = Image.new("RGB", (100, 50), (200, 10, 10))
    seen = Tiling(layouts=((112, 56),), side=56, patches=4, merge="spatial_unpad")
    whole, left, right = seen.cut(image)
    assert whole.size == left.size == right.size == (56, 56)
    joined = np.concatenate([np.asarray(left), np.asarray(right)], axis=1)
    assert (joined == (200, 10, 10)).all()
    tall = seen.cut(Image.new("RGB", (28, 56), (200, 10, 10)))
    joined = np.concatenate([np.asarray(one) for one in tall[1:]], axis=1)
    assert (joined[:, :42] == 0).all()
    assert (joined[:, 42:70] == (200, 10, 10)).all()


def test_pinpoints_may_be_text():
    assert published(image_grid_pinpoints=str(PUBLISHED)) == published()


@pytest.mark.parametrize(
    "points",
    [None, [], [[336]], [[300, 336]], [[0, 336]], [[336 * 100, 336 * 100]], "__import__('os')", "(", 7],
)  # fmt: skip
def test_odd_pinpoints_are_refused(points):
    with pytest.raises(CheckpointError, match="image_grid_pinpoints"):
        published(image_grid_pinpoints=points)


def test_an_unknown_way_to_merge_is_refused():
    with pytest.raises(CheckpointError, match="mm_patch_merge_type is 'maxpool'"):
        published(mm_patch_merge_type="maxpool")


def test_a_class_token_in_joined_tiles_is_refused():
    with pytest.raises(CheckpointError, match="cls_patch"):
        published(mm_vision_select_feature="cls_patch")


def test_another_crop_than_the_tower_reads_is_refused():
    config = {"image_grid_pinpoints": PUBLISHED, "mm_patch_merge_type": "flat"}
    with pytest.raises(CheckpointError, match="the tower takes 336"):
        tiling(config, VISION, (224, 224))
