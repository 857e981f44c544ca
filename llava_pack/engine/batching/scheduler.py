"""Continuous batching: which request does what in each step; no tensor is touched here.

A step prefills one chunk for a newcomer, or decodes one token for everybody who is being answered.
Newcomers go first, for as many tokens as one chunk has; then the others get their turn. Chunks
begin at multiples of one length: a request meets the same chunks alone and in any mix.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from llava_pack.engine.batching.detokenizer import AnswerText
from llava_pack.engine.batching.model import Model
from llava_pack.engine.batching.rows import Rows
from llava_pack.engine.batching.sequence import Job
from llava_pack.engine.batching.token import ChosenToken
from llava_pack.engine.measures import Likely, Odds, Trace
from llava_pack.engine.port import Delta, EngineInfo, Event, Failed, Reason, Request
from llava_pack.engine.stats import Work
from llava_pack.format.errors import PackError

_log = logging.getLogger(__name__)


class SlotEngine:
    """An engine (see `port.Engine`) over a model with rows."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._rows = Rows(model.info.slots, model.manner)
        self._waiting: deque[Job] = deque()
        self._joining: deque[Job] = deque()
        self._running: list[Job] = []
        self._cancelled: set[str] = set()
        self._events: list[Event] = []
        self._ahead = 0
        """Tokens prefilled since those who are being answered had their turn."""
        self._counted = Work(kv_capacity_tokens=model.info.slots * model.info.context_tokens)

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
        return len(self._running) + len(self._joining)

    @property
    def waiting(self) -> int:
        """Return how many requests wait for one."""
        return len(self._waiting)

    @property
    def work(self) -> Work:
        """Return what was done so far, and what is held in memory."""
        seen = self._model.work
        return replace(
            self._counted,
            kv_tokens=sum(job.done for job in (*self._joining, *self._running)),
            picture_queries=seen.picture_queries,
            picture_hits=seen.picture_hits,
            picture_bytes=seen.picture_bytes,
        )

    def tokenize(self, request: Request) -> tuple[int, ...]:
        """Return the ids of a request's prompt, whatever its length."""
        return self._model.tokenize(request)

    def trace(self, request: Request) -> Trace:
        """Return what becomes of a question, stage by stage."""
        return self._model.trace(request)

    def prepare(self, request: Request) -> None:
        """Do what takes long for a request before it is submitted; safe from any thread."""
        self._model.prepare(request)

    def submit(self, request: Request) -> None:
        """Take a request; whatever is wrong with it comes back from `step` as `Failed`."""
        self._waiting.append(Job(request, time.monotonic()))

    def cancel(self, request_id: str) -> None:
        """End a request at the next step; an unknown id is ignored."""
        self._cancelled.add(request_id)

    def step(self) -> Sequence[Event]:
        """Do a bounded piece of work for every request and return what came of it."""
        self._events = []
        self._drop_cancelled()
        if not self._running:
            self._ahead = 0
        if self._ahead < self._model.manner.chunk_tokens and self._admit():
            self._prefill(self._joining[0])
        elif self._running:
            self._ahead = 0
            self._decode()
        return self._events

    def _drop_cancelled(self) -> None:
        cancelled, self._cancelled = self._cancelled, set()
        if not cancelled:
            return
        everybody: tuple[deque[Job] | list[Job], ...] = (
            self._waiting, self._joining, self._running,
        )  # fmt: skip
        for jobs in everybody:
            for job in [job for job in jobs if job.id in cancelled]:
                jobs.remove(job)
                self._finish(job, "cancelled")

    def _admit(self) -> bool:
        """Make sure that somebody is prefilled, if anybody waits and there is a row for them."""
        while not self._joining and self._waiting and self._rows.free:
            self._look(self._newcomers())
        return bool(self._joining)

    def _newcomers(self) -> list[Job]:
        """Return the next requests, with their rows, whose pictures can be looked at together."""
        group: list[Job] = []
        pictures = 0
        while self._waiting and self._rows.free:
            job = self._waiting[0]
            if job.prompt is None and not self._write(job):
                continue
            count = len(job.prompt.pictures) if job.prompt else 0
            if group and pictures + count > self._model.manner.pictures_at_once:
                break
            pictures += count
            group.append(self._waiting.popleft())
            self._give_row(job)
        return group

    def _write(self, job: Job) -> bool:
        job.began_s = time.monotonic()
        try:
            job.prompt = self._model.write(job.request)
            job.keys = job.prompt.keys()
            job.chooser = self._model.chooser(job.prompt, job.request.sampling)
            job.text = AnswerText(job.prompt.stops)
        except Exception as error:  # noqa: BLE001 - a request fails alone, whatever it was
            self._waiting.remove(job)
            self._fail(job, error)
            return False
        return True

    def _give_row(self, job: Job) -> None:
        lease = self._rows.take(job.keys, job.request.salt)
        job.lease, job.done = lease, lease.reused
        if lease.reused and lease.source != lease.row:
            self._model.copy(lease.source, lease.row, lease.reused)
        self._counted = replace(
            self._counted,
            prefix_queries=self._counted.prefix_queries + job.prompt_tokens,
            prefix_hits=self._counted.prefix_hits + lease.reused,
        )

    def _look(self, group: Sequence[Job]) -> None:
        """See the pictures of several requests together; where that fails, of each alone."""
        prompts = [job.prompt for job in group if job.prompt is not None]
        try:
            seen = self._model.look(prompts, [job.done for job in group])
        except Exception as error:  # noqa: BLE001 - a request fails alone, whatever it was
            if len(group) > 1:
                _log.warning("pictures of %d requests failed, retrying each: %s", len(group), error)
                for job in group:
                    self._look([job])
                return
            self._rows.forget(group[0].row)
            self._fail(group[0], error)
            return
        for job, embeddings in zip(group, seen, strict=True):
            job.embeddings = embeddings
            self._joining.append(job)

    def _prefill(self, job: Job) -> None:
        try:
            first = self._model.prefill(job.row, job.embeddings, job.done, job.chooser)
        except Exception as error:  # noqa: BLE001 - a request fails alone, whatever it was
            self._joining.remove(job)
            self._rows.forget(job.row)
            self._fail(job, error)
            return
        before = job.done
        job.done = min(before + self._model.manner.chunk_tokens, job.prompt_tokens)
        self._ahead += job.done - before
        prefilled = self._counted.prefill_tokens + job.done - before
        self._counted = replace(self._counted, prefill_tokens=prefilled)
        if first is not None:
            job.embeddings = None
            self._joining.remove(job)
            self._running.append(job)
            self._hold(job)
            self._take(job, first)

    def _decode(self) -> None:
        jobs = self._running
        if self._model.manner.padded:
            self._close_up(jobs)
        try:
            chosen = self._model.decode(
                [job.row for job in jobs],
                [job.tokens[-1] for job in jobs],
                [job.done for job in jobs],
                [job.chooser for job in jobs],
            )
        except PackError as error:  # out of memory: the youngest gives way, the others go on
            youngest = jobs.pop()
            self._rows.forget(youngest.row)
            self._fail(youngest, error)
            return
        for job, choice in zip(list(jobs), chosen, strict=True):
            job.done += 1
            self._take(job, choice)

    def _close_up(self, jobs: Sequence[Job]) -> None:
        """Move requests to lower rows while that makes fewer rows to compute."""
        while (move := self._rows.denser()) is not None:
            source, target = move
            moved = [job for job in (*self._joining, *jobs) if job.row == source]
            for job in moved:
                self._model.copy(source, target, job.done)
                job.move(target)
            self._rows.moved(source, target)

    def _take(self, job: Job, choice: ChosenToken) -> None:
        """Take a new token of a running request: say it, and end the request where it ends."""
        if choice.refused is not None:
            self._running.remove(job)
            self._rows.forget(job.row)
            self._fail(job, choice.refused)
            return
        token = choice.token_id
        job.first_s = job.first_s or time.monotonic()
        job.tokens.append(token)
        ended = job.prompt is not None and token in job.prompt.eos_ids
        free = len(job.tokens) > job.request.sampling.min_tokens
        text = "" if ended else job.text.push(self._spoken(job, token), stopping=free)
        reason: Reason | None = "stop" if ended or choice.last or job.text.stopped else None
        full = job.done + 1 >= self._model.info.context_tokens
        if reason is None and (full or len(job.tokens) >= job.request.sampling.max_tokens):
            reason = "length"
        if reason is not None:
            text += job.text.end()
        self._events.append(Delta(job.id, text, (token,), self._odds(choice)))
        if reason is not None:
            self._running.remove(job)
            self._finish(job, reason)

    def _odds(self, choice: ChosenToken) -> tuple[Odds, ...]:
        if choice.logprob is None:
            return ()
        pairs = ((choice.token_id, choice.logprob), *choice.likeliest)
        chosen, *others = (Likely(i, self._model.token_bytes(i), value) for i, value in pairs)
        return (Odds(chosen, tuple(others)),)

    def _spoken(self, job: Job, token: int) -> bytes:
        """Return a token's bytes; the space that begins a turn belongs to the template."""
        data = self._model.token_bytes(token)
        begins = len(job.tokens) == 1 and (job.prompt is None or job.prompt.opened)
        return data.removeprefix(b" ") if begins else data

    def _hold(self, job: Job) -> None:
        if job.lease is not None:
            self._rows.hold(job.lease, job.held, job.request.salt, job.prompt_tokens)

    def _finish(self, job: Job, reason: Reason) -> None:
        """End a request; its row keeps what it holds until somebody needs it."""
        if job.lease is not None:
            self._hold(job)
            self._rows.leave(job.row)
        self._events.append(job.finished(reason))

    def _fail(self, job: Job, error: Exception) -> None:
        if not isinstance(error, PackError):
            _log.error("a request failed", exc_info=error)
            error = PackError(f"{type(error).__name__}: {error}")
        self._events.append(Failed.of(job.id, error))
