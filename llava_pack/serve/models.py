"""What the gateway knows of the models behind it: one port, implemented by the supervisor."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

from llava_pack.engine.port import EngineInfo, Event, Request

Phase = Literal["starting", "loading", "ready", "restarting", "stopped"]


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
    """How long there was work and no step; 0 while idle."""


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
    def vitals(self) -> Vitals:
        """The latest signs of progress."""

    def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer a request; closing the generator frees its slot.

        Raises:
            ServeError: the engine is not ready, or ended meanwhile.
        """
