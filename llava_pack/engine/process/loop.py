"""The one thread that loads an engine and steps it; others hand it requests and read counters."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from llava_pack.engine.port import Engine, Event, Failed, Request
from llava_pack.engine.process.latency import Meter, seen_from_outside
from llava_pack.engine.process.protocol import EngineStatus
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import PackError
from llava_pack.format.progress import Progress

_log = logging.getLogger(__name__)
_STATUS_EVERY_S = 0.2

Load = Callable[[Progress], Engine]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Question:
    """Something to ask the engine between two steps, and where the answer goes."""

    ask: Callable[[Engine], Any]
    answer: Future[Any]


_Order = Request | str | _Question
"""A request, the id of one to cancel, or a question."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Where news goes; both are called on the engine's thread and must not block."""

    events: Callable[[Sequence[Event]], None]
    status: Callable[[EngineStatus], None]


class EngineThread:
    """Loads an engine, then steps it while there is work and sleeps while there is none."""

    def __init__(self, load: Load, listener: Listener) -> None:
        self._load = load
        self._listener = listener
        self._wake = threading.Condition()
        self._orders: deque[_Order] = deque()
        self._stopping = False
        self._engine: Engine | None = None
        self._meter = Meter()
        self._progressed_s = time.monotonic()
        self.error: PackError | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def prepare(self, request: Request) -> None:
        """Do what takes long for a request on the thread that calls, before it is submitted.

        Raises:
            GrammarError: no answer can be held to its grammar.
        """
        if self._engine is not None:
            self._engine.prepare(request)

    def submit(self, request: Request) -> None:
        """Hand over a request."""
        self._order(request)

    def cancel(self, request_id: str) -> None:
        """Cancel a request."""
        self._order(request_id)

    def ask(self, question: Callable[[Engine], T]) -> Future[T]:
        """Return where the answer to a question will be: it is asked between two steps."""
        answer: Future[T] = Future()
        self._order(_Question(question, answer))
        return answer

    def stop(self) -> None:
        """End the thread after the current step, whatever is still running."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the thread and return whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def stats(self) -> Stats:
        """Return the counters; safe from any thread, at any time."""
        with self._wake:
            queued = sum(isinstance(order, Request) for order in self._orders)
            last, progressed_s = self._meter.stats, self._progressed_s
        return seen_from_outside(last, queued=queued, progressed_s=progressed_s)

    def _order(self, order: _Order) -> None:
        with self._wake:
            stats, now_s = self._meter.stats, time.monotonic()
            if not self._orders and not (stats.running or stats.waiting):
                self._progressed_s = now_s
            if isinstance(order, Request):
                self._meter.arrived(order.request_id, now_s)
            self._orders.append(order)
            self._wake.notify()

    def _run(self) -> None:
        try:
            self._engine = self._load(_StatusProgress(self._listener.status))
            self._listener.status(EngineStatus(state="ready", info=self._engine.info))
            while self._take_orders(self._engine):
                self._step(self._engine)
        except PackError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - the thread's boundary: exit code 1
            _log.exception("the engine stopped")
            self._fail(PackError(f"{type(error).__name__}: {error}"))

    def _take_orders(self, engine: Engine) -> bool:
        with self._wake:
            while not (self._orders or self._stopping) and engine.idle:
                self._wake.wait()
            if self._stopping:
                return False
            orders = list(self._orders)
            self._orders.clear()
            self._meter.queued(engine, sum(isinstance(order, Request) for order in orders))
        for order in orders:
            if isinstance(order, Request):
                engine.submit(order)
            elif isinstance(order, str):
                engine.cancel(order)
            else:
                _answer(engine, order)
        return True

    def _step(self, engine: Engine) -> None:
        events = engine.step()
        with self._wake:
            self._progressed_s = time.monotonic()
            self._meter.stepped(engine, events, self._progressed_s)
        if events:
            self._listener.events(events)

    def _fail(self, error: PackError) -> None:
        _log.error("%s", error)
        self.error = error
        self._listener.status(EngineStatus(state="failed", error=Failed.of("", error)))


def _answer(engine: Engine, question: _Question) -> None:
    try:
        question.answer.set_result(question.ask(engine))
    except Exception as error:  # noqa: BLE001 - whoever asked is told, whatever it was
        question.answer.set_exception(error)


class _StatusProgress:
    """A Progress that becomes statuses, at most five a second."""

    def __init__(self, publish: Callable[[EngineStatus], None]) -> None:
        self._publish = publish
        self._phase = ""
        self._done_bytes = 0
        self._total_bytes: int | None = None
        self._told_s = 0.0

    def start(self, what: str, total_bytes: int | None) -> None:
        """Begin a phase."""
        self._phase, self._done_bytes, self._total_bytes = what, 0, total_bytes
        self._tell()

    def advance(self, size_bytes: int) -> None:
        """Count bytes."""
        self._done_bytes += size_bytes
        if time.monotonic() - self._told_s >= _STATUS_EVERY_S:
            self._tell()

    def note(self, text: str) -> None:
        """Log the line."""
        _log.info("%s", text)

    def done(self) -> None:
        """End the phase."""
        self._tell()

    def _tell(self) -> None:
        self._told_s = time.monotonic()
        self._publish(
            EngineStatus(
                state="loading",
                phase=self._phase,
                done_bytes=self._done_bytes,
                total_bytes=self._total_bytes,
            )
        )
