"""The engine's tokens are those of transformers' own `generate`, alone and in any mix."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from llava_pack.engine import environment
from llava_pack.engine.batching.buckets import Buckets
from llava_pack.engine.batching.cuda_graphs import Graphs
from llava_pack.engine.batching.scheduler import SlotEngine
from llava_pack.engine.inputs.feature_cache import FeatureCache
from llava_pack.engine.inputs.prompt import Prompt
from llava_pack.engine.inputs.templates import Special, render
from llava_pack.engine.port import Delta, Failed, Finished, Message, Picture, Request
from llava_pack.engine.sampling import Sampling
from tests.support.checkpoints import TinyLlava, TinyTower, make_llava, make_tower

pytestmark = pytest.mark.engine
environment.prepare()
torch = pytest.importorskip("torch")

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
    from llava_pack.engine.loading.load import load_engine
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
        assert (case.engine._model._vision.processor.tiles(picture)[0] == pixels).all()


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


class Again:
    """Captures by keeping the function: what a graph does, on a CPU; `spoil` makes it do wrong."""

    def __init__(self, spoil: float = 0.0) -> None:
        self.spoil, self.replays = spoil, 0

    def __call__(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        result = run().clone()

        def replay() -> None:
            self.replays += 1
            result.copy_(run() + self.spoil)

        return replay, result


def with_graphs(model: Any, capture: Any, monkeypatch: pytest.MonkeyPatch) -> SlotEngine:
    monkeypatch.setattr(model, "manner", replace(model.manner, padded=True))
    buckets = Buckets(model.info.slots, model.info.context_tokens, captured=True)
    graphs = Graphs(model._padded_scores, buckets, model._device, capture)
    monkeypatch.setattr(model, "graphs", graphs)
    return SlotEngine(model)


@FP32
def test_decodes_run_again_from_their_buffers(case, monkeypatch):
    capture = Again()
    engine = with_graphs(case.engine._model, capture, monkeypatch)
    assert answers(engine, range(len(case.want))) == case.alone
    assert capture.replays > 50


@FP32
@pytest.mark.parametrize("fault", ["wrong", "raises"])
def test_a_capture_that_fails_is_not_used(case, monkeypatch, caplog, fault):
    def refuses(_run: Callable[[], Any]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    capture = Again(spoil=9.0) if fault == "wrong" else refuses
    engine = with_graphs(case.engine._model, capture, monkeypatch)
    assert answers(engine, range(len(case.want))) == case.alone
    assert "CUDA graphs are off" in caplog.text
    assert engine._model.graphs._captured == {}
    caplog.clear()


@FP32
def test_layers_on_devices_of_their_own_give_the_same_tokens(case, checkpoint, monkeypatch):
    """With one device under every layer's name: what is moved between them is all there is."""
    from llava_pack.engine.loading import assembly
    from llava_pack.engine.loading.load import load_engine

    places = (torch.device("cpu"),) * SPEC.layers
    monkeypatch.setattr(assembly, "_spread", lambda _c, _o, place: replace(place, spread=places))
    engine = load_engine(checkpoint, precision="fp32", slots=4)
    assert hasattr(engine._model._language.layers[1], "_hf_hook")
    assert answers(engine, range(4)) == {index: case.alone[index] for index in range(4)}


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


def prompted(engine: Any, prompt: Prompt, name: str = "p", max_tokens: int = 24) -> list[Any]:
    """Answer a prompt of ids, whatever text might have given it; return the events."""
    request = Request(request_id=name, messages=(), sampling=Sampling(max_tokens=max_tokens))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine._model, "write", lambda _request: prompt)
        engine.submit(request)
        events = []
        while not engine.idle:
            events += engine.step()
    return events


def going_on(prompt: Prompt, said: list[int]) -> Prompt:
    """Return the prompt of the next turn."""
    return replace(prompt, ids=(*prompt.ids, *said, *range(40, 60)))


def test_the_next_turn_says_what_it_says_without_reuse(case):
    """Exactly in 32 bits; in 4 and 8 the answer's keys were rounded one by one, not in chunks."""
    model, alike = case.engine._model, 0
    for index in range(len(case.want)):
        kept, fresh = SlotEngine(model), SlotEngine(model)
        first = model.write(question(index, "p"))
        said = tokens(prompted(kept, first), "p")
        events = prompted(kept, going_on(first, said))
        used = next(event.usage for event in events if isinstance(event, Finished))
        assert used.cached_tokens == len(first) + len(said) - 1
        assert used.prompt_tokens - used.cached_tokens == 21
        alike += tokens(events, "p") == tokens(prompted(fresh, going_on(first, said)), "p")
    assert alike == len(case.want) or case.engine.info.precision != "fp32"
    assert alike >= len(case.want) - 3, f"{alike} of {len(case.want)}"


@pytest.mark.parametrize("case", ["fp32", "nf4"], indirect=True)
def test_what_is_reused_of_another_question_has_the_same_bits(case, monkeypatch):
    """A whole chunk of a prompt is computed to the same bits, whoever asked; int8 has none."""
    model = case.engine._model
    monkeypatch.setattr(model, "manner", replace(model.manner, chunk_tokens=17))

    def keys_and_values(engine: SlotEngine) -> tuple[int, list[Any]]:
        asked = (Message("user", (noise(28, 28, 5), "what is this? " * 6 + "And now?")),)
        engine.submit(Request(request_id="p", messages=asked, sampling=Sampling(max_tokens=4)))
        while not engine._running:
            engine.step()
        (job,) = engine._running
        held = [
            kept[job.row, :, : job.done].clone()
            for layer in model._cache.layers
            for kept in (layer.keys, layer.values)
        ]
        while not engine.idle:
            engine.step()
        return job.lease.reused, held

    earlier = (Message("user", (noise(28, 28, 5), "what is this? " * 8)),)
    warm = SlotEngine(model)
    warm.submit(Request(request_id="e", messages=earlier, sampling=Sampling(max_tokens=9)))
    while not warm.idle:
        warm.step()
    (nothing, fresh), (some, reused) = keys_and_values(SlotEngine(model)), keys_and_values(warm)
    assert (nothing, some % 17, some > 17) == (0, 0, True)
    assert all(torch.equal(one, other) for one, other in zip(fresh, reused, strict=True))


def test_canary_pictures_stay_with_their_requests(case):
    """The same words about different pictures, hot and cold, together and one by one."""
    model = case.engine._model
    canaries = [noise(28, 28, seed) for seed in (1, 2, 3)]

    def asked(engine: SlotEngine, order: list[int]) -> dict[str, list[int]]:
        for place, which in enumerate(order):
            message = Message("user", (canaries[which], "what is this?"))
            sampling = Sampling(max_tokens=16)
            engine.submit(Request(request_id=f"{place} {which}", messages=(message,), sampling=sampling))  # fmt: skip
        events = []
        while not engine.idle:
            events += engine.step()
        return {name: tokens(events, name) for name in {event.request_id for event in events}}

    model._vision.cache = FeatureCache(0)
    want = {which: asked(SlotEngine(model), [which])[f"0 {which}"] for which in range(3)}
    assert len({tuple(answer) for answer in want.values()}) == 3, "the canaries look alike"
    model._vision.cache = FeatureCache(1 << 20)
    hot = SlotEngine(model)
    for order in ([0, 1, 2, 0], [2, 2, 1, 0, 1], [1, 0]):
        for name, answer in asked(hot, order).items():
            assert answer == want[int(name.split()[1])], name
    assert (hot.work.picture_queries, hot.work.picture_hits) == (11, 8)


class Scarce:
    """Runs out of memory at some calls of what it stands for."""

    def __init__(self, call: Any, *, fails: Callable[..., bool]) -> None:
        self._call, self._fails, self.failed = call, fails, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._fails(*args):
            self.failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self._call(*args, **kwargs)


@FP32
def test_out_of_memory_costs_one_request_and_never_the_engine(case, monkeypatch):
    model = case.engine._model
    with monkeypatch.context() as patch:  # while decoding three, once
        three = Scarce(model._forward, fails=lambda e, *_: e.shape[0] == 3 and not three.failed)
        patch.setattr(model, "_forward", three)
        events = asked_at_once(case.engine, [0, 1, 2])
    failed = [event for event in events if isinstance(event, Failed)]
    assert [(event.request_id, event.kind) for event in failed] == [("2", "space")]
    assert [tokens(events, name) for name in "01"] == [case.alone[0], case.alone[1]]

    with monkeypatch.context() as patch:  # while looking at more than one picture
        patch.setattr(model, "manner", replace(model.manner, pictures_at_once=8))
        patch.setattr(model._vision, "cache", FeatureCache(0))
        seen = Scarce(model._vision.features, fails=lambda pictures: len(pictures) > 1)
        patch.setattr(model._vision, "features", seen)
        events = asked_at_once(case.engine, [0, 1, 2, 7])
    assert seen.failed == 2, "all at once, then the one with two pictures"
    failed = [event for event in events if isinstance(event, Failed)]
    assert [(event.request_id, event.kind) for event in failed] == [("7", "space")]
    assert [tokens(events, name) for name in "012"] == [case.alone[n] for n in range(3)]
    assert answers(case.engine, [0, 7]) == {0: case.alone[0], 7: case.alone[7]}


def asked_at_once(engine: SlotEngine, order: list[int]) -> list[Any]:
    for index in order:
        engine.submit(question(index, str(index), max_tokens=MAX_TOKENS))
    events = []
    while not engine.idle:
        events += engine.step()
    return events
