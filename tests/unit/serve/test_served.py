"""The models as the gateway serves them, over a real engine process that somebody else started."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pack.engine.port import EngineInfo, Finished, Message, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import ServeError
from llava_pack.serve.engines.client import EngineAddress
from llava_pack.serve.feed import Bulletin, News
from llava_pack.serve.gateway.models import ServedModels
from llava_pack.serve.gateway.served import ServedEngine
from llava_pack.serve.port import LaterError, OverloadedError, Status, Vitals
from tests.support.gateway import ROOT

_INFO = EngineInfo(
    model="echo", precision="fp32", device="cpu", context_tokens=512, slots=2, conv_mode="llava_v1",
    image_tokens=4,
)  # fmt: skip
_HI = Request(request_id="r", messages=(Message("user", ("hi",)),))
_LONG = replace(_HI, sampling=Sampling(max_tokens=400))
_LONG = replace(_LONG, messages=(Message("user", ("word " * 400,)),))


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lp-") as short:  # a socket is made in it
        yield Path(short)


def _news(folder: Path, *, engine: int = 0, name: str = "m") -> News:
    return News(
        engine=engine,
        name=name,
        address=EngineAddress(socket=folder / "e.sock"),
        status=Status(phase="ready"),
        info=_INFO,
        vitals=Vitals(steps=1, running=0, waiting=0, stalled_s=0.0, bound_s=60.0),
        stats=Stats(),
        restarts=0,
    )


async def _engine(folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "tests" / "support" / "engine.py"),
        *("--socket", str(folder / "e.sock"), "--step-s", "0.01"),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def _served(folder: Path, use: Callable[[ServedModels, asyncio.Event], Awaitable[None]]) -> None:
    """Run an engine, and models of which `m` is served by it; `changed` is set when one changes."""

    async def run() -> None:
        process = await _engine(folder)
        changed = asyncio.Event()
        models = ServedModels(0, changed.set)
        models.take(Bulletin(number=1, models=(_news(folder),)))
        try:
            while not models.reached:
                changed.clear()
                await changed.wait()
            await use(models, changed)
        finally:
            models.take(Bulletin(number=2, models=()))
            await models.let_go()
            process.terminate()
            await process.wait()

    asyncio.run(run())


async def _ask(model: ServedEngine, request: Request) -> str:
    return "".join([getattr(event, "text", "") async for event in model.generate(request)])


def test_a_model_is_asked_at_the_socket_that_it_was_told_to_have(folder: Path) -> None:
    async def use(models: ServedModels, _changed: asyncio.Event) -> None:
        assert await _ask(models["m"], _HI) == "You said: hi"
        assert models["m"].tally.ended["stop"] == 1

    _served(folder, use)


def test_what_is_not_reached_is_not_ready_whatever_was_told(tmp_path: Path) -> None:
    async def run() -> None:
        models = ServedModels(0, lambda: None)
        models.take(Bulletin(number=1, models=(_news(tmp_path),)))
        assert models["m"].status.phase == "starting"
        assert models.reached == ()
        with pytest.raises(ServeError, match="not ready: starting"):
            models["m"].admit()
        models.take(Bulletin(number=2, models=()))
        await models.let_go()

    asyncio.run(run())


def test_what_is_told_of_no_more_answers_to_the_end_and_takes_nothing_new(folder: Path) -> None:
    async def use(models: ServedModels, changed: asyncio.Event) -> None:
        model = models["m"]
        events = model.generate(_LONG)
        await anext(events)
        models.take(Bulletin(number=2, models=(_news(folder, engine=1),)))
        await models.let_go()
        assert models["m"] is not model, "the name has another engine now"
        assert models.in_flight == {0: 1, 1: 0}
        with pytest.raises(ServeError, match="not ready: stopped"):
            model.admit()
        changed.clear()
        last = [event async for event in events][-1]
        assert isinstance(last, Finished)
        assert changed.is_set(), "who waits for the last answer hears of it at once"
        await models.let_go()
        assert models.in_flight == {1: 0}

    _served(folder, use)


def test_what_loads_says_when_it_is_loaded(tmp_path: Path) -> None:
    now_s = 0.0

    async def run() -> None:
        nonlocal now_s
        news = _news(tmp_path)

        def loading(done_bytes: int) -> News:
            status = Status(phase="loading", done_bytes=done_bytes, total_bytes=100)
            return replace(news, status=status)

        model = ServedEngine(loading(0), 0, lambda: None, lambda: now_s)
        with pytest.raises(LaterError) as begun:
            model.admit()
        now_s = 10.0
        model.take(loading(50))
        with pytest.raises(LaterError, match="not ready: loading") as half:
            model.admit()
        assert (begun.value.retry_s, half.value.retry_s) == (5, 15)
        await model.close()

    asyncio.run(run())


def test_a_full_queue_refuses(folder: Path) -> None:
    async def use(models: ServedModels, _changed: asyncio.Event) -> None:
        running = [models["m"].generate(_LONG) for _ in range(_INFO.slots)]
        for events in running:
            await anext(events)
        with pytest.raises(OverloadedError):
            models["m"].admit()
        for events in running:
            await events.aclose()
        models["m"].admit()
        assert models["m"].tally.refused == 1

    _served(folder, use)


def test_news_that_nobody_refreshes_are_no_sign_of_progress(tmp_path: Path) -> None:
    """Where the supervisor hangs, nobody looks at the engine."""
    now_s = 0.0

    async def run() -> None:
        nonlocal now_s
        news = _news(tmp_path)
        model = ServedEngine(news, 0, lambda: None, lambda: now_s)
        now_s = 4
        assert model.vitals == news.vitals
        now_s = 59
        assert not model.vitals.stalled
        now_s = 61
        assert model.vitals.stalled
        model.take(news)
        assert not model.vitals.stalled
        await model.close()

    asyncio.run(run())
