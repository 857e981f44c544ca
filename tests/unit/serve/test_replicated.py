"""A model of several replicas, over real engine processes that somebody else started."""

import asyncio
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from llava_pack.engine.port import EngineInfo, Event, Finished, Message, Picture, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import ServeError
from llava_pack.serve.engines.client import EngineAddress
from llava_pack.serve.feed import Bulletin, News
from llava_pack.serve.gateway.models import ServedModels
from llava_pack.serve.gateway.replicated import ReplicatedModel
from llava_pack.serve.port import LaterError, OverloadedError, Status, Vitals
from tests.support.gateway import ROOT

_SLOTS = 4
_INFO = EngineInfo(
    model="echo", precision="fp32", device="cpu", context_tokens=512, slots=_SLOTS,
    conv_mode="llava_v1", image_tokens=4,
)  # fmt: skip
_READY = Status(phase="ready")


def _asked(text: str, *pictures: int, tokens: int = 512) -> Request:
    shown = tuple(Picture(1, 1, bytes([colour] * 3)) for colour in pictures)
    message = Message("user", (*shown, text))
    return Request(request_id="r", messages=(message,), sampling=Sampling(max_tokens=tokens))


_LONG = _asked("word " * 300)


@dataclass
class _Fleet:
    """Engines of one model, by the addresses that they go by."""

    folder: Path
    queue: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    news: dict[str, News] = field(default_factory=dict)
    bulletins: int = 0

    def __post_init__(self) -> None:
        self.models = ServedModels(self.queue, self.changed.set)

    @property
    def model(self) -> ReplicatedModel:
        model = self.models["m"]
        assert isinstance(model, ReplicatedModel)
        return model

    @property
    def ended(self) -> dict[str, Counter[str]]:
        """Return how requests ended, by replica."""
        return {one.replica: one.tally.ended for one in self.model.replicas}

    async def start(self, *names: str, step_s: float = 0.005) -> None:
        for name in names:
            number = len(self.news)
            socket = self.folder / f"{number}.sock"
            self.processes[name] = await asyncio.create_subprocess_exec(
                sys.executable, str(ROOT / "tests" / "support" / "engine.py"),
                *("--socket", str(socket), "--step-s", str(step_s), "--slots", str(_SLOTS)),
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            self.news[name] = News(
                engine=number,
                name="m",
                address=EngineAddress(socket=socket),
                status=_READY,
                info=_INFO,
                vitals=Vitals(steps=1, running=0, waiting=0, stalled_s=0.0, bound_s=60.0),
                stats=Stats(),
                restarts=0,
                replica=name,
            )
        self.tell(*self.news.values())
        while len(self.models.reached) < len(self.news):
            self.changed.clear()
            await self.changed.wait()

    def tell(self, *news: News) -> None:
        self.bulletins += 1
        self.models.take(Bulletin(number=self.bulletins, models=news))

    async def close(self) -> None:
        self.tell()
        await self.models.let_go()
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()


def _with(
    *names: str, step_s: float = 0.005
) -> Callable[[Callable[[_Fleet], Awaitable[None]]], None]:
    def run(use: Callable[[_Fleet], Awaitable[None]]) -> None:
        async def within() -> None:
            with tempfile.TemporaryDirectory(prefix="lp-") as short:
                fleet = _Fleet(Path(short))
                try:
                    await fleet.start(*names, step_s=step_s)
                    await use(fleet)
                finally:
                    await fleet.close()

        asyncio.run(within())

    return run


async def _events(model: ReplicatedModel, request: Request) -> list[Event]:
    return [event async for event in model.generate(request)]


async def _one_event(model: ReplicatedModel, request: Request) -> Event:
    async with aclosing(model.generate(request)) as events:
        return await anext(events)


def test_questions_about_one_picture_meet_one_replica_and_others_all() -> None:
    async def use(fleet: _Fleet) -> None:
        for text in ("what", "how many", "which colour", "where"):
            await _events(fleet.model, _asked(text, 7))
        assert sorted(ended["stop"] for ended in fleet.ended.values()) == [0, 0, 4]
        for colour in range(30):
            await _events(fleet.model, _asked("what", colour))
        assert all(ended["stop"] >= 3 for ended in fleet.ended.values())
        assert fleet.model.tally.ended["stop"] == 34
        assert fleet.model.info == replace(_INFO, slots=3 * _SLOTS)

    _with("a", "b", "c", step_s=0.0)(use)


def test_a_picture_that_everybody_asks_about_is_seen_by_others_too() -> None:
    async def use(fleet: _Fleet) -> None:
        asking = [
            asyncio.create_task(_events(fleet.model, _asked("word " * 40, 7))) for _ in range(8)
        ]
        await asyncio.gather(*asking)
        assert sum(ended["stop"] for ended in fleet.ended.values()) == 8
        assert all(ended["stop"] >= 2 for ended in fleet.ended.values())

    _with("a", "b")(use)


def test_one_that_is_killed_costs_no_request_that_it_had_not_begun() -> None:
    async def use(fleet: _Fleet) -> None:
        asked = _asked("hello", 7)
        await _events(fleet.model, asked)
        near = next(name for name, ended in fleet.ended.items() if ended["stop"])
        fleet.processes[near].send_signal(19)  # SIGSTOP: it takes requests and answers none
        asking = asyncio.create_task(_events(fleet.model, asked))
        await asyncio.sleep(0.1)
        fleet.processes[near].kill()
        events = await asking
        assert isinstance(events[-1], Finished)
        assert fleet.model.asked_again == 1
        assert fleet.model.tally.ended == {"stop": 2}
        assert fleet.ended[near] == {"stop": 1, "error": 1}
        await _events(fleet.model, asked)  # although nobody has told that it is gone
        assert fleet.model.asked_again == 1

    _with("a", "b")(use)


def test_an_answer_that_had_begun_fails_with_its_replica() -> None:
    async def use(fleet: _Fleet) -> None:
        async def heard() -> None:
            async for _event in fleet.model.generate(_LONG):
                for one in fleet.model.replicas:
                    if one.in_flight:
                        fleet.processes[one.replica].kill()

        with pytest.raises(ServeError):
            await heard()
        assert fleet.model.tally.ended == {"error": 1}
        assert fleet.model.asked_again == 0

    _with("a", "b")(use)


def test_it_is_ready_while_one_replica_is() -> None:
    async def use(fleet: _Fleet) -> None:
        a, b = fleet.news.values()
        lost = Status(phase="restarting", detail="it exited")
        fleet.tell(replace(a, status=lost), b)
        assert fleet.model.status == _READY
        assert fleet.model.info == _INFO
        await _events(fleet.model, _asked("hi"))
        assert fleet.ended["b"]["stop"] == 1
        fleet.tell(replace(a, status=lost), replace(b, status=lost))
        assert fleet.model.status == lost
        with pytest.raises(LaterError, match="restarting"):
            fleet.model.admit()
        with pytest.raises(LaterError, match="restarting"):
            await _events(fleet.model, _asked("hi"))

    _with("a", "b")(use)


def test_one_that_is_told_of_no_more_ends_what_runs_and_is_asked_nothing() -> None:
    async def use(fleet: _Fleet) -> None:
        asking = [asyncio.create_task(_events(fleet.model, _LONG)) for _ in range(4)]
        while not all(one.in_flight for one in fleet.model.replicas):  # noqa: ASYNC110 - counters
            await asyncio.sleep(0.01)
        a, b = fleet.news.values()
        model = fleet.model
        fleet.tell(b)
        assert fleet.model is model
        assert fleet.models.in_flight[a.engine] > 0
        await _events(fleet.model, _asked("hi"))
        assert set(fleet.ended) == {"b"}
        for events in await asyncio.gather(*asking):
            assert isinstance(events[-1], Finished)
        assert fleet.models.in_flight[a.engine] == 0
        await fleet.models.let_go()
        assert set(fleet.models.in_flight) == {b.engine}

    _with("a", "b")(use)


def test_work_of_others_there_counts_as_load() -> None:
    async def use(fleet: _Fleet) -> None:
        a, b = fleet.news.values()
        fleet.tell(replace(a, stats=Stats(running=_SLOTS, waiting=3)), b)
        for colour in range(10):
            await _events(fleet.model, _asked("what", colour))
        assert fleet.ended["b"]["stop"] == 10
        assert fleet.model.stats.running == _SLOTS
        assert fleet.model.stats.waiting == 3

    _with("a", "b", step_s=0.0)(use)


def test_a_stalled_one_is_asked_only_where_there_is_no_other() -> None:
    async def use(fleet: _Fleet) -> None:
        a, b = fleet.news.values()
        hung = replace(a.vitals, stalled_s=100.0)
        fleet.tell(replace(a, vitals=hung), b)
        for colour in range(10):
            await _events(fleet.model, _asked("what", colour))
        assert fleet.ended["b"]["stop"] == 10
        assert not fleet.model.vitals.stalled
        fleet.tell(replace(a, vitals=hung), replace(b, vitals=hung))
        assert fleet.model.vitals.stalled
        await _events(fleet.model, _asked("what"))

    _with("a", "b", step_s=0.0)(use)


def test_it_is_full_once_every_replica_is() -> None:
    async def use(fleet: _Fleet) -> None:
        asking = [asyncio.create_task(_events(fleet.model, _LONG)) for _ in range(2 * _SLOTS)]
        while sum(one.in_flight for one in fleet.model.replicas) < 2 * _SLOTS:
            assert not fleet.model.full
            await asyncio.sleep(0.01)
        assert fleet.model.full
        with pytest.raises(OverloadedError):
            await _one_event(fleet.model, _asked("hi"))
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert fleet.model.tally.ended == {"abort": 2 * _SLOTS}
        assert not fleet.model.full

    _with("a", "b")(use)
