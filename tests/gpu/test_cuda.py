"""The engine on a CUDA device; every test is skipped, visibly, where there is none.

    python -m pytest -n 0 tests/gpu

Needs torch, transformers, bitsandbytes and pytest: nothing of llava-pack but its engine,
checkpoint and format packages is imported.
"""

from pathlib import Path
from typing import Any

import pytest

from llava_pack.engine import environment
from llava_pack.engine.port import Delta, Failed, Finished, Message, Picture, Request
from llava_pack.engine.sampling import Sampling
from tests.support.checkpoints import TinyLlava, TinyTower, make_llava, make_tower

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
environment.prepare()
SPEC = TinyLlava(hidden=256, inner=512, layers=4, heads=4, groups=4, tower=TinyTower(layers=4))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cuda")
    make_tower(folder / "clip-tiny", SPEC.tower)
    return make_llava(folder / "llava-v1-tiny", SPEC)


@pytest.fixture(scope="module", params=["fp16", "bf16", "nf4", "int8"])
def engine(request, checkpoint) -> Any:
    from llava_pack.engine.loading.load import load_engine

    return load_engine(checkpoint, precision=request.param, device="cuda", slots=8)


def ask(number: int, **sampling: Any) -> Request:
    picture = Picture(number + 1, 2, bytes(range(6 * (number + 1))))
    return Request(
        request_id=str(number),
        messages=(Message("user", (picture, "what is it? " * (number + 1))),),
        sampling=Sampling(**{"max_tokens": 32, **sampling}),
    )


def answers(engine: Any, *numbers: int) -> dict[int, list[int]]:
    for number in numbers:
        engine.submit(ask(number))
    got: dict[int, list[int]] = {number: [] for number in numbers}
    while not engine.idle:
        for event in engine.step():
            assert not isinstance(event, Failed), event
            if isinstance(event, Delta):
                got[int(event.request_id)] += event.token_ids
    return got


def test_answers_hardly_depend_on_neighbours(engine):
    """On a GPU kernels depend on the shape: the beginning of nearly every answer is the same."""
    alone = {number: answers(engine, number)[number] for number in range(8)}
    together = answers(engine, *range(8))
    alike = sum(alone[number][:4] == together[number][:4] for number in range(8))
    print(f"{engine.info.precision}: {alike} of 8 begin alike")
    assert alike >= 6


def test_decodes_are_captured_and_equal_the_eager_ones(engine):
    graphs = engine._model.graphs
    captured = answers(engine, 0, 1, 2)
    if engine.info.precision == "int8":
        assert graphs._captured == {}
        return
    assert graphs._captured, "nothing was captured: the log says why"
    kept, graphs._captured, graphs._capture = (graphs._captured, graphs._capture), {}, None
    try:
        assert answers(engine, 0, 1, 2) == captured
    finally:
        graphs._captured, graphs._capture = kept


def test_a_seed_gives_the_same_tokens_again(engine):
    def sampled() -> list[int]:
        engine.submit(ask(1, temperature=0.9, top_p=0.8, seed=5))
        events = []
        while not engine.idle:
            events += engine.step()
        return [token for event in events if isinstance(event, Delta) for token in event.token_ids]

    assert sampled() == sampled()


def test_a_full_device_costs_the_request_and_not_the_engine(engine):
    before = answers(engine, 3)
    hog = []
    try:
        size = 256 << 20
        while size > 1 << 20:
            try:
                hog.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
            except torch.OutOfMemoryError:
                size //= 2
        wide = Message("user", tuple(Picture(64, 64, bytes(12288)) for _ in range(8)))
        engine.submit(Request(request_id="x", messages=(wide, Message("user", ("?",)))))
        events = []
        while not engine.idle:
            events += engine.step()
    finally:
        hog.clear()
        torch.cuda.empty_cache()
    ends = [event for event in events if isinstance(event, Finished | Failed)]
    assert len(ends) == 1
    assert isinstance(ends[0], Finished) or ends[0].kind in {"space", "usage"}
    assert answers(engine, 3) == before
