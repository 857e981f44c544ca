"""What the gateway knows of the models behind it: one port, implemented over their engines."""

import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, Self, get_args

from llava_pack.engine.fence.value import Standing
from llava_pack.engine.measures import Trace
from llava_pack.engine.port import EngineInfo, Event, Request
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import ServeError
from llava_pack.format.text import Language
from llava_pack.serve.counters import Tally

Phase = Literal["starting", "loading", "warming", "ready", "restarting", "stopped"]
PHASES: tuple[Phase, ...] = get_args(Phase)
PHASE_WORDS: Mapping[Language, Mapping[Phase, str]] = {
    "en": {phase: phase for phase in PHASES} | {"warming": "warming up"},
    "zh": {
        "starting": "启动中",
        "loading": "加载中",
        "warming": "预热中",
        "ready": "就绪",
        "restarting": "重启中",
        "stopped": "已停止",
    },
}


_SOON_S = 2.0
MOST_RETRY_S = 60.0
"""What common clients still wait. Source: openai-python, `_calculate_retry_timeout`."""


class LaterError(ServeError):
    """Something that passes by itself.

    Args:
        message: what it is.
        retry_s: after how many seconds the same request may be taken.
    """

    def __init__(self, message: str, *, hint: str = "", retry_s: float = _SOON_S) -> None:
        self.retry_s = max(1, math.ceil(min(retry_s, MOST_RETRY_S)))
        super().__init__(message, hint=hint or f"try again in {self.retry_s} s")


class OverloadedError(LaterError):
    """The queue of a model is full; trying again later may help."""

    @classmethod
    def full(cls, requests: int, retry_s: float = _SOON_S) -> Self:
        """Return that so many requests run or wait already."""
        message = f"the queue is full: {requests} requests are running or waiting"
        return cls(message, retry_s=retry_s)


class ShareError(LaterError):
    """One caller's share of a queue is full; others are still taken."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a model stands, for `/startupz` and for the person who waits."""

    phase: Phase
    detail: str = ""
    """One line for people: what is loaded, or why the engine was started again."""
    done_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """Signs of progress, taken by the supervisor and only read by the probes."""

    steps: int
    """Engine steps since it started."""
    running: int
    """Requests that hold a slot."""
    waiting: int
    """Requests in the queue."""
    stalled_s: float
    """How long there was work and no step, or no answer at all; 0 while idle."""
    bound_s: float
    """How long that may take before something is wrong."""

    @property
    def stalled(self) -> bool:
        """Return whether something is wrong."""
        return self.stalled_s > self.bound_s


class Replica(Protocol):
    """One of several engines that serve a model."""

    in_flight: int
    """Requests that it answers just now, of those that came here."""

    @property
    def replica(self) -> str:
        """Where it is, for people: a server's address, or that it is this one's own."""

    @property
    def status(self) -> Status:
        """Where it stands."""

    @property
    def info(self) -> EngineInfo | None:
        """What it said of itself; None until it was loaded once."""

    @property
    def vitals(self) -> Vitals:
        """The latest signs of progress."""

    @property
    def tally(self) -> Tally:
        """What became of the requests that it was asked from here."""


class Served(Protocol):
    """One model that is served, whatever state its engine is in."""

    @property
    def name(self) -> str:
        """The name for `model` in the API."""

    @property
    def status(self) -> Status:
        """Where it stands."""

    @property
    def info(self) -> EngineInfo | None:
        """What its engine said of itself; None until it was loaded once."""

    @property
    def standing(self) -> Standing | None:
        """Which fence stands around its engine; None where that is not known."""

    @property
    def vitals(self) -> Vitals:
        """The latest signs of progress."""

    @property
    def stats(self) -> Stats:
        """What its engine last counted."""

    @property
    def tally(self) -> Tally:
        """What became of its requests."""

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The engines that serve it, where there are several or they are elsewhere."""

    @property
    def full(self) -> bool:
        """Whether it would refuse a request just now because its queue is full."""

    def admit(self) -> None:
        """Refuse early, before pictures are decoded.

        Raises:
            ServeError: the engine is not ready.
            OverloadedError: the queue is full.
        """

    async def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt; -200 stands for a token of a picture.

        Raises:
            PackError: the request is not usable, or the engine not ready.
        """

    async def trace(self, request: Request) -> Trace:
        """Return what becomes of a question on its way through the model.

        Raises:
            PackError: the request is not usable, or the engine not ready.
        """

    def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer a request; closing the generator frees its slot.

        Raises:
            ServeError: the engine is not ready, or ended meanwhile.
        """
