"""Which layout a picture takes, what of it is seen, and which configurations are refused."""

import random

import numpy as np
import pytest
from PIL import Image

from llava_pack.checkpoint.tiling import Tiling, pinpoints, tiling
from llava_pack.checkpoint.vision import TowerRules, tower_rules
from llava_pack.engine.inputs.anyres import cut
from llava_pack.format.errors import CheckpointError

PUBLISHED = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
VISION = {"image_size": 336, "patch_size": 14}


def tower(config) -> TowerRules:
    return tower_rules(config, VISION)


def published(**changes) -> Tiling:
    config = {
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": PUBLISHED,
        "mm_patch_merge_type": "spatial_unpad",
        **changes,
    }
    return tiling(config, tower(config))


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
    whole, left, right = cut(image, seen)
    assert whole.size == left.size == right.size == (56, 56)
    joined = np.concatenate([np.asarray(left), np.asarray(right)], axis=1)
    assert (joined == (200, 10, 10)).all()
    tall = cut(Image.new("RGB", (28, 56), (200, 10, 10)), seen)
    joined = np.concatenate([np.asarray(one) for one in tall[1:]], axis=1)
    assert (joined[:, :42] == 0).all()
    assert (joined[:, 42:70] == (200, 10, 10)).all()


def test_pinpoints_may_be_text():
    assert published(image_grid_pinpoints=str(PUBLISHED)) == published()


@pytest.mark.parametrize(
    "points",
    [None, [], [[336]], [[300, 336]], [[0, 336]], [[336 * 100, 336 * 100]], "__import__('os')", "(", 7,
     [[float("inf"), 1]], "[[1e999, 1]]", [[10**400, 336]], f"[[1{'0' * 400}, 336]]"],
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


def test_a_range_of_tiles():
    """Source: LLaVA-OneVision's configuration, every layout from one tile to six by six."""
    layouts = pinpoints("(1x1),...,(6x6)", 384)
    assert (len(layouts), layouts[1], layouts[-1]) == (36, (384, 768), (2304, 2304))


@pytest.mark.parametrize("size", [(384, 384), (2000, 1500), (2304, 2304), (5000, 100), (1, 1)])
def test_what_is_over_the_most_is_scaled_down(size):
    most = published(image_aspect_ratio="anyres_max_2", image_grid_pinpoints="(1x1),...,(6x6)")
    rows, columns = most.joined(size)
    fewer = most.scaled(size)
    if rows * columns > 1.21 * 2 * 24**2:
        assert fewer[0] < rows
        assert fewer[0] * fewer[1] <= 2 * 24**2
    else:
        assert fewer == (rows, columns)
    assert most.tokens(size) == 576 + fewer[0] * (fewer[1] + 1) <= most.most_tokens
    assert most.tokens(size, square=True) == 577


def test_what_a_float_lost_is_given_back_as_transformers_does():
    """480 * (48 / 700) * 700 / 480 and the like end just below a whole number."""
    sizes = [(width, height) for width in range(100, 400) for height in range(100, 400, 7)]
    plain, rounded = published(), published(unpad_rounds=True)
    differ = [size for size in sizes if plain.joined(size) != rounded.joined(size)]
    assert differ
    assert all(rounded.tokens(size) != plain.tokens(size) for size in differ)
