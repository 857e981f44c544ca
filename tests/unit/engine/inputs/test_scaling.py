"""Scaling in parts gives what scaling the whole gives, for every shape and filter."""

import random
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from llava_pack.engine.inputs import scaling
from llava_pack.engine.inputs.scaling import scaled_centre, scaled_square

# The four of transformers' configurations; a box filter is nobody's.
FILTERS = (
    Image.Resampling.NEAREST,
    Image.Resampling.LANCZOS,
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
)
_ODD = [(1, 1), (1, 2), (2, 1), (400, 1), (1, 400), (7, 350), (350, 7), (64, 64)]


def shapes(count: int, most: int) -> list[tuple[int, int]]:
    dice = random.Random(12)
    drawn = [(dice.randrange(1, most), dice.randrange(1, most)) for _ in range(count)]
    return [*_ODD, *drawn]


def noise(size: tuple[int, int]) -> Image.Image:
    data = np.random.default_rng(size[0] * 7919 + size[1]).bytes(size[0] * size[1] * 3)
    return Image.frombytes("RGB", size, data)


@pytest.mark.parametrize("resample", FILTERS)
def test_a_square_in_strips_is_the_square_to_the_bit(resample, monkeypatch):
    monkeypatch.setattr(scaling, "_STRIP_ROWS", 7)
    for size in shapes(40, 400):
        image = noise(size)
        side = max(size)
        whole = Image.new("RGB", (side, side), (122, 116, 104))
        whole.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
        for scaled in ((14, 14), (56, 40), (336, 336)):
            expected = whole.resize(scaled, resample)
            strips = scaled_square(image, scaled, (122, 116, 104), resample)
            assert strips.tobytes() == expected.tobytes(), (size, scaled)


@pytest.mark.parametrize("resample", FILTERS[1:])
def test_a_middle_cut_before_scaling_is_the_one_cut_after(resample, monkeypatch):
    """At most one step of 255 apart: Pillow keeps where a part begins in single precision.

    So nearest, which has no steps, may take a neighbour: it is left out.
    """
    for size in shapes(40, 400):
        image, edge, crop = noise(size), 20, (20, 24)
        monkeypatch.setattr(scaling, "_WHOLE_PIXELS", 1 << 30)
        whole = np.asarray(scaled_centre(image, edge, crop, resample), np.int16)
        monkeypatch.setattr(scaling, "_WHOLE_PIXELS", 0)
        part = np.asarray(scaled_centre(image, edge, crop, resample), np.int16)
        top, left = ((whole.shape[n] - part.shape[n]) // 2 for n in (0, 1))
        middle = whole[top : top + part.shape[0], left : left + part.shape[1]]
        assert np.abs(middle - part).max() <= 1, size
        assert np.mean(middle != part) < 0.02, size


_LINES = """
import pathlib
from llava_pack.checkpoint.pictures import picture_rules
from llava_pack.checkpoint.vision import tower_rules
from llava_pack.engine.inputs.image_processor import PictureProcessor
from llava_pack.engine.port import Picture
tower = tower_rules({}, {"image_size": 336, "patch_size": 14})
config = {"size": 336, "crop_size": 336, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
for size in [(10_000, 1), (1, 10_000), (10_000, 3), (3, 10_000)]:
    line = Picture(*size, bytes(3 * size[0] * size[1]))
    for aspect in ("pad", None):
        rules = picture_rules(config, {"image_aspect_ratio": aspect}, tower)
        PictureProcessor(rules).tiles(line)
print(next(s for s in pathlib.Path("/proc/self/status").open() if s.startswith("VmHWM")).split()[1])
"""


def test_a_line_takes_no_more_memory_than_a_picture():
    """In a process of its own: the most that one ever took is never less again."""
    done = subprocess.run([sys.executable, "-c", _LINES], capture_output=True, check=True)
    assert int(done.stdout) < 200_000
