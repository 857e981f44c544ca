"""The engine's tokens are those of transformers' own `generate`, alone and in any mix."""

import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from llava_pack.engine import environment
from llava_pack.engine.port import Delta, Failed, Message, Picture, Request, Sampling
from llava_pack.engine.templates import Special, render
from tests.support.checkpoints import TinyLlava, TinyTower, make_llava, make_tower

pytestmark = pytest.mark.engine
environment.prepare()

SIZES = [(28, 28), (40, 20), (20, 40), (33, 1), (1, 50), (300, 200)]
MAX_TOKENS = 64
SPEC = TinyLlava(hidden=128, inner=192, layers=3, groups=2, tower=TinyTower(layers=4))


def noise(width: int, height: int, seed: int) -> Picture:
    return Picture(width, height, random.Random(seed).randbytes(width * height * 3))


def questions() -> list[tuple[Message, ...]]:
    """Pictures of every shape, none, two, several turns; prompts longer than a chunk."""
    asked: list[tuple[Message, ...]] = [
        (Message("user", (noise(*size, seed), "what is this? " * (1 + 3 * seed))),)
        for seed, size in enumerate(SIZES)
    ]
    asked.append((Message("user", ("no picture at all",)),))
    asked.append((Message("user", (noise(9, 9, 7), noise(10, 5, 8), "both")),))
    return asked


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exactness")
    make_tower(folder / "clip-tiny", SPEC.tower)
    return make_llava(folder / "llava-v1-tiny", SPEC)


@dataclass
class Case:
    """An engine, transformers with the same weights, and what both answer one by one."""

    engine: Any
    oracle: Any
    want: list[list[int]]
    alone: dict[int, list[int]]


FP32 = pytest.mark.parametrize("case", ["fp32"], indirect=True)


@pytest.fixture(scope="module", params=["fp32", "nf4", "int8"])
def case(request, checkpoint, tmp_path_factory):
    from llava_pack.engine.load import load_engine
    from tests.support.reference import reference

    folder = tmp_path_factory.mktemp(request.param)
    oracle = reference(checkpoint, checkpoint.parent / "clip-tiny", folder, request.param)
    want = [oracle.answer(render(asked, "llava_v1"), MAX_TOKENS) for asked in questions()]
    shutil.rmtree(folder)
    engine = load_engine(checkpoint, precision=request.param, slots=4)
    alone = {index: answers(engine, [index])[index] for index in range(len(want))}
    return Case(engine, oracle, want, alone)


def answers(engine, order, *, arrive=lambda: True) -> dict[int, list[int]]:
    """Answer some of the questions, in an order, each submitted when `arrive` says so."""
    waiting, got = list(order), {index: [] for index in order}
    while waiting or not engine.idle:
        while waiting and arrive():
            index = waiting.pop(0)
            engine.submit(question(index, str(index), max_tokens=MAX_TOKENS))
        for event in engine.step():
            assert not isinstance(event, Failed), event
            if isinstance(event, Delta):
                got[int(event.request_id)] += event.token_ids
    return got


def test_pixels_are_bit_equal(case):
    pictures = [noise(*size, seed) for seed, size in enumerate(SIZES)]
    want = case.oracle.pixels(pictures).numpy()
    for picture, pixels in zip(pictures, want, strict=True):
        assert (case.engine._model._vision.processor.pixels(picture) == pixels).all()


def test_alone_as_generate(case):
    # Two pictures go through transformers' tower together; in int8 the last bit of that counts.
    count = len(case.want) - (case.engine.info.precision == "int8")
    assert list(case.alone.values())[:count] == case.want[:count]


def test_all_at_once_as_alone(case):
    assert answers(case.engine, range(len(case.want))) == case.alone


@pytest.mark.parametrize("seed", [1, 2])
def test_staggered_arrivals_as_alone(case, seed):
    chance = random.Random(seed)
    order = list(case.alone)
    chance.shuffle(order)
    assert answers(case.engine, order, arrive=lambda: chance.random() < 0.15) == case.alone


@FP32
def test_small_chunks_give_the_same_tokens(case, monkeypatch):
    manner = replace(case.engine._model.manner, chunk_tokens=17)
    monkeypatch.setattr(case.engine._model, "manner", manner)
    assert answers(case.engine, range(len(case.want))) == case.alone


@FP32
def test_padded_decoding_gives_the_same_tokens(case, monkeypatch):
    manner = replace(case.engine._model.manner, padded=True, pictures_at_once=8)
    monkeypatch.setattr(case.engine._model, "manner", manner)
    assert answers(case.engine, range(len(case.want))) == case.alone


def test_cancelling_one_leaves_the_others_alone(case):
    for index in (0, 1, 2):
        case.engine.submit(question(index, str(index), max_tokens=MAX_TOKENS))
    events = [event for _ in range(10) for event in case.engine.step()]
    case.engine.cancel("0")
    while not case.engine.idle:
        events += case.engine.step()
    got = tokens(events, "0")
    assert got == case.alone[0][: len(got)] != case.alone[0]
    assert [tokens(events, name) for name in "12"] == [case.alone[1], case.alone[2]]


def test_a_seed_gives_the_same_tokens_in_any_mix(case):
    sampled = {"temperature": 0.9, "top_p": 0.8, "max_tokens": 24}

    def mixed_with(*others: int) -> list[int]:
        for index in others:
            case.engine.submit(question(index, f"other {index}", seed=index, **sampled))
        case.engine.submit(question(0, "mine", seed=11, **sampled))
        events = []
        while not case.engine.idle:
            events += case.engine.step()
        return tokens(events, "mine")

    assert mixed_with() == mixed_with(1, 2, 3)


def question(index: int, name: str, **sampling: Any) -> Request:
    return Request(request_id=name, messages=questions()[index], sampling=Sampling(**sampling))


def tokens(events: list[Any], name: str) -> list[int]:
    mine = [e for e in events if isinstance(e, Delta) and e.request_id == name]
    return [token for event in mine for token in event.token_ids]


@FP32
def test_several_turns_are_tokenized_as_llava_does(case):
    turns = (
        Message("user", (noise(30, 30, 3), "first")),
        Message("assistant", ("an answer",)),
        Message("user", ("second",)),
    )
    items = render(turns, "llava_v1")
    assert [item for item in items if isinstance(item, Special)] == [Special("</s>")]
    prompt = case.engine._model.write(Request(request_id="t", messages=turns))
    at = prompt.ids.index(case.oracle.tokenizer.eos_id())
    after = items[items.index(Special("</s>")) + 1]
    # The tiny tokenizer says `legacy: false`: no space is put before what follows a special token.
    assert list(prompt.ids[at + 1 :]) == case.oracle.tokenizer.encode(after)[1:]
