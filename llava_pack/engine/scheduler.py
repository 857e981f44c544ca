"""Continuous batching: which request does what in each step; no tensor is touched here.

Running requests hold the rows 0..n-1 of the model's cache, and the one that is being prefilled
row n. A step prefills at most a few chunks, then decodes one token for every running request. A
request that ends gives its row to the last one, so rows stay dense. Chunks always begin at
multiples of the same length: a request meets the same chunks alone and in any mix.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llava_pack.engine.choice import Choice
from llava_pack.engine.port import (
    Delta,
    EngineInfo,
    Event,
    Failed,
    Finished,
    Likely,
    Odds,
    Reason,
    Request,
    Sampling,
    Timings,
    Usage,
)
from llava_pack.engine.prompt import Prompt
from llava_pack.engine.stats import Work
from llava_pack.engine.text import AnswerText
from llava_pack.format.errors import PackError

_log = logging.getLogger(__name__)
_IDLE_CHUNKS = 4
"""Chunks prefilled in a step while nobody waits for a next token."""


class Chooser(Protocol):
    """Chooses tokens for one request; it keeps the request's own random state."""


class Model(Protocol):
    """What the scheduler asks of a model with rows."""

    @property
    def info(self) -> EngineInfo:
        """Return what is served."""

    @property
    def chunk_tokens(self) -> int:
        """Return how many prompt tokens one prefill takes at most."""

    def write(self, request: Request) -> Prompt:
        """Return the request's prompt, or raise what is wrong with it."""

    def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt, whatever its length."""

    def look(self, prompt: Prompt) -> Any:
        """Return the prompt's embeddings, with its pictures seen."""

    def chooser(self, sampling: Sampling) -> Chooser:
        """Return what chooses the request's tokens."""

    def prefill(self, row: int, embeddings: Any, begin: int, chooser: Chooser) -> Choice | None:
        """Process a chunk in a row; return the first token when it was the last chunk."""

    def decode(
        self, tokens: Sequence[int], lengths: Sequence[int], choosers: Sequence[Chooser]
    ) -> list[Choice]:
        """Give each row its last token, at its length, and return the next ones."""

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` tokens to another row."""

    def token_bytes(self, token_id: int) -> bytes:
        """Return what a token adds to an answer."""


@dataclass
class _Job:
    request: Request
    arrived_s: float
    prompt: Prompt | None = None
    embeddings: Any = None
    chooser: Any = None
    text: AnswerText = field(default_factory=AnswerText)
    done: int = 0
    tokens: list[int] = field(default_factory=list)
    began_s: float | None = None
    first_s: float | None = None

    @property
    def id(self) -> str:
        return self.request.request_id

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt) if self.prompt is not None else 0


class SlotEngine:
    """An engine (see `port.Engine`) over a model with rows."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._waiting: deque[_Job] = deque()
        self._joining: _Job | None = None
        self._running: list[_Job] = []
        self._cancelled: set[str] = set()
        self._events: list[Event] = []
        self._prefilled = 0

    @property
    def info(self) -> EngineInfo:
        """Return what is served."""
        return self._model.info

    @property
    def idle(self) -> bool:
        """Return whether `step` would have nothing to do."""
        return not (self._waiting or self._joining or self._running)

    @property
    def running(self) -> int:
        """Return how many requests hold a slot."""
        return len(self._running) + (self._joining is not None)

    @property
    def waiting(self) -> int:
        """Return how many requests wait for one."""
        return len(self._waiting)

    @property
    def work(self) -> Work:
        """Return what was done so far, and what is held in memory."""
        info = self._model.info
        return Work(
            kv_tokens=sum(job.done for job in self._running),
            kv_capacity_tokens=info.slots * info.context_tokens,
            prefill_tokens=self._prefilled,
        )

    def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt, whatever its length."""
        return self._model.tokenize(request)

    def submit(self, request: Request) -> None:
        """Take a request; whatever is wrong with it comes back from `step` as `Failed`."""
        self._waiting.append(_Job(request, time.monotonic()))

    def cancel(self, request_id: str) -> None:
        """End a request at the next step; an unknown id is ignored."""
        self._cancelled.add(request_id)

    def step(self) -> Sequence[Event]:
        """Do a bounded piece of work for every request and return what came of it."""
        self._events = []
        self._drop_cancelled()
        for _ in range(1 if self._running else _IDLE_CHUNKS):
            if not self._join():
                break
            self._prefill()
        self._decode()
        return self._events

    def _drop_cancelled(self) -> None:
        cancelled, self._cancelled = self._cancelled, set()
        if not cancelled:
            return
        for job in [job for job in self._waiting if job.id in cancelled]:
            self._waiting.remove(job)
            self._finish(job, "cancelled")
        if self._joining is not None and self._joining.id in cancelled:
            self._finish(self._joining, "cancelled")
            self._joining = None
        for job in [job for job in self._running if job.id in cancelled]:
            self._finish(job, "cancelled")
            self._leave(job)

    def _join(self) -> bool:
        """Make sure that a request is being prefilled; return whether there is one."""
        while self._joining is None and self._waiting:
            if len(self._running) >= self._model.info.slots:
                return False
            job = self._waiting.popleft()
            job.began_s = time.monotonic()
            try:
                job.prompt = self._model.write(job.request)
                job.embeddings = self._model.look(job.prompt)
                job.chooser = self._model.chooser(job.request.sampling)
                job.text = AnswerText(job.prompt.stops)
            except Exception as error:  # noqa: BLE001 - a request fails alone, whatever it was
                self._fail(job, error)
            else:
                self._joining = job
        return self._joining is not None

    def _prefill(self) -> None:
        job = self._joining
        if job is None:
            return
        try:
            first = self._model.prefill(len(self._running), job.embeddings, job.done, job.chooser)
        except Exception as error:  # noqa: BLE001 - a request fails alone, whatever it was
            self._joining = None
            self._fail(job, error)
            return
        before, job.done = job.done, min(job.done + self._model.chunk_tokens, job.prompt_tokens)
        self._prefilled += job.done - before
        if first is None:
            return
        self._joining, job.embeddings = None, None
        self._running.append(job)
        self._take(job, first)

    def _decode(self) -> None:
        if not self._running:
            return
        jobs = list(self._running)
        try:
            chosen = self._model.decode(
                [job.tokens[-1] for job in jobs],
                [job.done for job in jobs],
                [job.chooser for job in jobs],
            )
        except PackError as error:  # out of memory: the youngest gives way, the others go on
            self._fail(jobs[-1], error)
            self._leave(jobs[-1])
            return
        for job in jobs:
            job.done += 1
        for job, choice in zip(jobs, chosen, strict=True):
            self._take(job, choice)

    def _take(self, job: _Job, choice: Choice) -> None:
        """Take a new token of a running request: say it, and end the request where it ends."""
        token = choice.token_id
        job.first_s = job.first_s or time.monotonic()
        job.tokens.append(token)
        ended = job.prompt is not None and token in job.prompt.eos_ids
        text = "" if ended else job.text.push(self._spoken(job, token))
        reason: Reason | None = "stop" if ended or job.text.stopped else None
        full = job.done + 1 >= self._model.info.context_tokens
        if reason is None and (full or len(job.tokens) >= job.request.sampling.max_tokens):
            reason = "length"
        if reason is not None:
            text += job.text.end()
        self._events.append(Delta(job.id, text, (token,), self._odds(choice)))
        if reason is not None:
            self._finish(job, reason)
            self._leave(job)

    def _odds(self, choice: Choice) -> tuple[Odds, ...]:
        if choice.logprob is None:
            return ()
        pairs = ((choice.token_id, choice.logprob), *choice.likeliest)
        chosen, *others = (Likely(i, self._model.token_bytes(i), value) for i, value in pairs)
        return (Odds(chosen, tuple(others)),)

    def _spoken(self, job: _Job, token: int) -> bytes:
        """Return a token's bytes; the space that begins an answer belongs to the template."""
        data = self._model.token_bytes(token)
        return data.removeprefix(b" ") if len(job.tokens) == 1 else data

    def _leave(self, job: _Job) -> None:
        """Free a row: the last row moves into the hole, the joining one after it."""
        row, last = self._running.index(job), len(self._running) - 1
        if row != last:
            moved = self._running[last]
            self._model.move(last, row, moved.done)
            self._running[row] = moved
        self._running.pop()
        if self._joining is not None and self._joining.done:
            self._model.move(last + 1, last, self._joining.done)

    def _finish(self, job: _Job, reason: Reason) -> None:
        now = time.monotonic()
        timings = Timings(
            queued_s=(job.began_s or now) - job.arrived_s,
            first_token_s=(job.first_s or now) - job.arrived_s,
            total_s=now - job.arrived_s,
        )
        usage = Usage(job.prompt_tokens, len(job.tokens))
        self._events.append(Finished(job.id, reason, usage, timings))

    def _fail(self, job: _Job, error: Exception) -> None:
        if not isinstance(error, PackError):
            _log.error("a request failed", exc_info=error)
            error = PackError(f"{type(error).__name__}: {error}")
        self._events.append(Failed.of(job.id, error))
