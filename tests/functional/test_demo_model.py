"""The demo model does what its card says, through llava-pack's own engine."""

import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torch")

from llava_pack.engine.loading.load import load_engine
from llava_pack.engine.port import Delta, Failed, Finished, Message, Picture, Request
from llava_pack.engine.sampling import Sampling

pytestmark = pytest.mark.engine

DEMO = Path(__file__).resolve().parents[2] / "bundles" / "demo-model"
ITEMS, SEED, SLOTS = 200, 20_261, 25


@pytest.fixture(scope="module")
def scenes():
    sys.path.insert(0, str(DEMO))
    try:
        import scenes

        yield scenes
    finally:
        sys.path.remove(str(DEMO))


@pytest.fixture(scope="module")
def items(scenes):
    print("held-out seed", SEED)
    return scenes.held_out(ITEMS, SEED)


@pytest.fixture(scope="module", params=["fp32", "nf4"])
def engine(request):
    return load_engine(
        DEMO / "llava-v1-demo",
        vision_tower=DEMO / "clip-demo",
        precision=request.param,
        device="cpu",
        slots=SLOTS,
        context_tokens=256,
    )


def answers(engine, asked):
    """Return one greedy answer for each picture and question, all of them submitted at once."""
    said = Counter()
    texts = dict.fromkeys(map(str, range(len(asked))), "")
    for number, (picture, question) in enumerate(asked):
        shown = Picture(picture.width, picture.height, picture.tobytes())
        message = Message("user", (shown, question))
        sampling = Sampling(max_tokens=48)
        engine.submit(Request(request_id=str(number), messages=(message,), sampling=sampling))
    while not engine.idle:
        for event in engine.step():
            assert not isinstance(event, Failed), event
            if isinstance(event, Delta):
                texts[event.request_id] += event.text
            elif isinstance(event, Finished):
                said[event.reason] += 1
    assert said.total() == len(asked)
    return [text.strip() for text in texts.values()]


def right(engine, items, pictures):
    asked = [(picture, item.question) for picture, item in zip(pictures, items, strict=True)]
    told = answers(engine, asked)
    return sum(text == item.answer for text, item in zip(told, items, strict=True)) / len(items)


def test_it_answers_what_is_in_unseen_pictures(engine, items):
    began = time.perf_counter()
    share = right(engine, items, [item.picture for item in items])
    print(engine.info.precision, share, f"{time.perf_counter() - began:.1f} s")
    assert share >= (0.95 if engine.info.precision == "fp32" else 0.93)


def test_it_looks_at_the_picture(engine, items, scenes):
    few = items[:80]
    black = [scenes.Image.new("RGB", item.picture.size) for item in few]
    assert right(engine, few, black) <= 0.35
    others = [item.picture for item in few]
    random.Random(SEED).shuffle(others)
    assert right(engine, few, others) <= 0.45


def test_the_repositories_are_as_llava_and_clip_are_published():
    """Source: the file list and config.json of liuhaotian/llava-v1.5-7b, and of its tower."""
    model, tower = DEMO / "llava-v1-demo", DEMO / "clip-demo"
    config = json.loads((model / "config.json").read_text())
    assert config["architectures"] == ["LlavaLlamaForCausalLM"]
    assert config["mm_vision_tower"] == "not--on-the-hub/clip-demo"
    index = json.loads((model / "pytorch_model.bin.index.json").read_text())["weight_map"]
    shards = {f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)}
    assert set(index.values()) == shards == {path.name for path in model.glob("*.bin")}
    assert {"model.mm_projector.0.weight", "model.mm_projector.2.bias"} <= index.keys()
    names = {path.name for path in model.iterdir()}
    assert "tokenizer.model" in names
    assert "tokenizer.json" not in names
    whole = {"pytorch_model.bin", "preprocessor_config.json"}
    assert {path.name for path in tower.iterdir()} >= whole
    files = [path for path in DEMO.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12_000_000


def test_held_out_scenes_never_come_from_the_training_stream(scenes):
    trained, held = scenes.training_random(1), random.Random("held-out:1")
    seen = {scenes.make_scene(trained).things for _ in range(4_000)} - {()}
    assert len(seen) > 3_700
    assert not seen & {scenes.make_scene(held).things for _ in range(1_000)}
