"""LLaVA-OneVision and -Interleave answer as transformers' own classes do, in either layout."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llava_pack.checkpoint.tiling import Tiling, pinpoints
from llava_pack.engine import environment
from tests.support.checkpoints import make_converted

pytestmark = pytest.mark.engine
environment.prepare()
pytest.importorskip("torch")
newer: Any = pytest.importorskip("tests.support.newer")
TOLERANCE = 1e-5
SPECS = {"onevision": newer.ONEVISION, "tied": newer.TIED, "interleave": newer.INTERLEAVE}


def load(folder, precision="fp32", slots=1):
    from llava_pack.engine.loading.load import load_engine

    return load_engine(folder, precision=precision, slots=slots, conv_mode=newer.MODE)


def first_logits(engine, messages):
    """Return the logits of a prompt's last position."""
    import torch

    from llava_pack.engine.batching.kv_cache import Prefill

    model = engine._model
    prompt = model.write(newer.request(messages))
    with torch.inference_mode():
        (seen,) = model.look([prompt], [0])
        positions = torch.arange(len(prompt))[None]
        chunk = seen.chunk(0, len(prompt))
        return model._scores(model._forward(chunk, positions, Prefill(0, 0, len(prompt))))[0]


@dataclass(frozen=True)
class Case:
    """A model in both layouts, loaded, and transformers' own class over the converted one."""

    folder: Path
    engine: Any
    original: Any
    oracle: Any


@pytest.fixture(scope="module", params=SPECS)
def case(request, tmp_path_factory):
    spec = SPECS[request.param]
    original, converted = newer.made_pair(tmp_path_factory.mktemp(request.param), spec)
    engine = load(converted)
    # A conversion to plain LLaVA has no original: what Interleave's was trained from is in tiles.
    other = load(original) if spec.tiles else engine
    return Case(converted, engine, other, newer.oracle(converted))


@pytest.mark.parametrize("name", newer.QUESTIONS)
def test_pixels_logits_and_tokens(case, name):
    engine, original, oracle = case.engine, case.original, case.oracle
    messages = newer.asked(name)
    pictures = messages[0].pictures
    squares = engine._model.write(newer.request(messages)).squares
    for picture, expected in zip(pictures, oracle.tiles(pictures), strict=True):
        tiles = engine._model._vision.processor.tiles(picture, square=squares)
        assert np.array_equal(tiles, expected)
    difference = first_logits(engine, messages) - oracle.logits(engine, messages)
    assert difference.abs().max() <= TOLERANCE
    tokens = newer.answer(engine, messages)
    assert tokens == oracle.answer(engine, messages)
    assert len(tokens) == newer.MAX_TOKENS
    assert newer.answer(original, messages) == tokens


@pytest.mark.parametrize("name", ["square", "wide", "two"])
def test_a_layer_before_the_last_that_is_selected(tmp_path, name):
    folder = make_converted(tmp_path / "llava-ov-tiny-hf", newer.INTERLEAVE)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "vision_feature_layer": -2}))
    engine, oracle = load(folder), newer.oracle(folder)
    assert newer.answer(engine, newer.asked(name)) == oracle.answer(engine, newer.asked(name))


def sizes(count):
    """Return odd sizes: small, long, large, and those at the edge of what is scaled down."""
    chance = random.Random(1)
    longest = [chance.choice((9, 50, 400, 1200, 3000, 8000)) for _ in range(count)]
    return [(chance.randint(1, most), chance.randint(1, most)) for most in longest]


@pytest.mark.parametrize("most_tiles", [1, 4, 9])
def test_the_tokens_of_a_picture_are_those_that_transformers_counts(most_tiles):
    from transformers import LlavaOnevisionProcessor

    points = pinpoints("(1x1),...,(6x6)", 384)
    tiling = Tiling(
        layouts=points,
        side=384,
        patches=27,
        merge="spatial_unpad",
        most_tiles=most_tiles,
        rounds=True,
    )
    processor = object.__new__(LlavaOnevisionProcessor)
    processor.num_image_tokens = tiling.patches**2
    processor.vision_aspect_ratio = f"anyres_max_{most_tiles}"
    layouts = [[height, width] for width, height in points]
    processor.image_processor = SimpleNamespace(image_grid_pinpoints=layouts)
    for width, height in sizes(700):
        counted = processor._get_number_of_features(height, width, 384, 384)
        assert tiling.tokens((width, height)) == counted, (width, height)
        assert counted <= tiling.most_tokens


def test_several_pictures_are_seen_otherwise_than_one(case):
    engine = case.engine
    one, two = (engine._model.write(newer.request(newer.asked(n))) for n in ("square", "two"))
    tiled = engine._model._vision.processor.rules.tiling is not None
    assert (one.squares, two.squares) == (False, tiled)
    assert one.pictures[0].digest == two.pictures[0].digest
    same = set(one.keys()) & set(two.keys()) - set(range(newer.ONEVISION.vocabulary))
    assert bool(same) is not tiled


def test_requests_together_are_answered_as_alone(case):
    engine = case.engine
    alone = {name: newer.answer(engine, newer.asked(name)) for name in newer.QUESTIONS}
    many = load(case.folder, slots=4)
    together = [newer.request(newer.asked(name), name) for name in newer.QUESTIONS]
    assert newer.answers(many, together) == alone
    # Once more, with pictures and prefixes that are kept.
    assert newer.answers(many, together[::-1]) == alone
    assert many._model._vision.cache.hits
