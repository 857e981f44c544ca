"""A second engine behind the port, without torch: it says back what it was told.

Its tokens are words. It keeps slots, a waiting line, cancellation, stop strings, limits and
failures as the port's contract wants them, and runs in the same worker process.

Run it: `python tests/support/engine.py --socket PATH [--slots N] [--context N] [--step-s S]
[--load-until PATH] [--fence]`. One answer is at most as long as the context: with a large one it never ends by itself.
"""

import argparse
import hashlib
import os
import random
import re
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageStat

from llava_pack.engine.fence.home import move_in
from llava_pack.engine.fence.place import this_place
from llava_pack.engine.fence.plan import engine_fence
from llava_pack.engine.fence.raising import raise_fence
from llava_pack.engine.fence.value import Standing
from llava_pack.engine.inputs import templates
from llava_pack.engine.measures import Likely, Odds, Timings, Trace, Usage
from llava_pack.engine.port import (
    ContextLengthError,
    Delta,
    Engine,
    EngineInfo,
    Event,
    Failed,
    Finished,
    Picture,
    Reason,
    Request,
)
from llava_pack.engine.process import process
from llava_pack.engine.stats import Work
from llava_pack.format.errors import PackError, SpaceError
from llava_pack.format.progress import Progress

IMAGE_TOKENS = 4


@dataclass
class _Job:
    request: Request
    arrived_s: float
    words: deque[str] = field(default_factory=deque)
    prompt_tokens: int = 0
    said: list[str] = field(default_factory=list)
    began_s: float = 0.0
    first_s: float = 0.0


class EchoEngine:
    """Answers `You said: …` word by word, and says the size and the mean colour of pictures."""

    def __init__(
        self,
        *,
        slots: int = 2,
        context_tokens: int = 512,
        step_s: float = 0.0,
        wedge: bool = False,
        says: Path | None = None,
    ) -> None:
        self._info = EngineInfo(
            model="echo",
            precision="fp32",
            device="cpu",
            context_tokens=context_tokens,
            slots=slots,
            conv_mode="llava_v1",
            image_tokens=IMAGE_TOKENS,
        )
        self._step_s = step_s
        self._wedge = wedge
        self._says = says
        self._waiting: list[_Job] = []
        self._running: list[_Job] = []
        self._cancelled: set[str] = set()
        self._prefilled = 0

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._running)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def work(self) -> Work:
        return Work(
            kv_tokens=sum(job.prompt_tokens + len(job.said) for job in self._running),
            kv_capacity_tokens=self._info.slots * self._info.context_tokens,
            prefill_tokens=self._prefilled,
        )

    def tokenize(self, request: Request) -> tuple[int, ...]:
        conv_mode = request.conv_mode or self._info.conv_mode
        items = templates.render(request.messages, conv_mode, new_turn=request.new_turn)
        return tuple(token_id for item in items for token_id in _ids(item))

    def trace(self, request: Request) -> Trace:
        pictures = request.messages[-1].pictures
        prompt = hashlib.sha256(repr(self.tokenize(request)).encode()).hexdigest()
        words = hashlib.sha256(request.messages[-1].text.encode()).hexdigest()
        if not pictures:
            return Trace(prompt=prompt, words=words)
        seen = (float(sum(pictures[0].rgb)),)
        return Trace(
            prompt=prompt, words=words, pixels=pictures[0].digest, tower=seen, projector=seen
        )

    def prepare(self, request: Request) -> None:
        pass

    def submit(self, request: Request) -> None:
        self._waiting.append(_Job(request, time.monotonic()))

    def cancel(self, request_id: str) -> None:
        self._cancelled.add(request_id)

    def step(self) -> Sequence[Event]:
        if self._step_s:
            time.sleep(self._step_s)
        events: list[Event] = []
        for jobs in (self._waiting, self._running):
            for job in [j for j in jobs if j.request.request_id in self._cancelled]:
                jobs.remove(job)
                events.append(_finished(job, "cancelled"))
        self._cancelled.clear()
        while self._waiting and len(self._running) < self._info.slots:
            events += self._admit(self._waiting.pop(0))
        for job in list(self._running):
            events += self._speak(job)
        return events

    def _admit(self, job: _Job) -> list[Event]:
        request = job.request
        job.began_s = time.monotonic()
        try:
            job.prompt_tokens = len(self.tokenize(request))
            limit = self._info.context_tokens
            if job.prompt_tokens + 1 > limit:
                count = job.prompt_tokens
                raise ContextLengthError(
                    f"the prompt has {count} tokens, the model's limit is {limit}"
                )
            if request.messages[-1].text == "starve":
                raise SpaceError("the GPU's memory is used up")
        except PackError as error:
            return [Failed.of(request.request_id, error)]
        if self._wedge and request.messages[-1].text == "wedge":
            threading.Event().wait()
        job.words = deque(re.findall(r"\s*\S+\s*", self._answer(request)))
        self._running.append(job)
        self._prefilled += job.prompt_tokens
        return []

    def _answer(self, request: Request) -> str:
        return _answer(request) if self._says is None else self._says.read_text()

    def _speak(self, job: _Job) -> list[Event]:
        request_id, sampling = job.request.request_id, job.request.sampling
        job.first_s = job.first_s or time.monotonic()
        word = job.words.popleft() if job.words else ""
        before = "".join(job.said)
        job.said.append(word)
        text, stopped = _until_stop(before, word, sampling.stop)
        reason: Reason | None = "stop" if stopped or not word else None
        full = job.prompt_tokens + len(job.said) >= self._info.context_tokens
        if reason is None and (full or len(job.said) >= sampling.max_tokens):
            reason = "length"
        token_id = _word_id(word)
        odds = () if sampling.logprobs is None else (_sure(token_id, word, sampling.logprobs),)
        events: list[Event] = [Delta(request_id, text, (token_id,), odds)]
        if reason is not None:
            self._running.remove(job)
            events.append(_finished(job, reason))
        return events


def _answer(request: Request) -> str:
    last = request.messages[-1]
    words = f"You said: {last.text}"
    for picture in last.pictures:
        red, green, blue = map(round, _means(picture))
        words += f" Picture {picture.width}x{picture.height} of {red},{green},{blue}."
    if request.sampling.temperature:
        lucky = random.Random(request.sampling.seed).randrange(10**6)
        words += f" Lucky number {lucky}."
    return words


def _means(picture: Picture) -> list[float]:
    """Return the mean of each colour, by Pillow: a large picture must not hold up the steps."""
    image = Image.frombytes("RGB", picture.size, bytes(picture.rgb))
    return ImageStat.Stat(image).mean


def _ids(item: templates.Item) -> list[int]:
    if isinstance(item, Picture):
        return [-200] * IMAGE_TOKENS
    return [_word_id(word) for word in item.split()] if isinstance(item, str) else [2]


def _word_id(word: str) -> int:
    return zlib.crc32(word.encode()) & 0x7FFF


def _sure(token_id: int, word: str, count: int) -> Odds:
    """Return the odds of a word that was never in doubt."""
    chosen = Likely(token_id, word.encode(), 0.0)
    others = (Likely(number, b"", -100.0 - number) for number in range(1, count))
    return Odds(chosen, (chosen, *others)[:count])


def _until_stop(before: str, word: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Return what of `word` may be said; a stop string that began earlier was said in part."""
    found = [at for stop in stops if (at := (before + word).find(stop)) >= 0]
    return (word[: max(0, min(found) - len(before))], True) if found else (word, False)


def _finished(job: _Job, reason: Reason) -> Finished:
    now = time.monotonic()
    timings = Timings(
        queued_s=(job.began_s or now) - job.arrived_s,
        first_token_s=(job.first_s or now) - job.arrived_s,
        total_s=now - job.arrived_s,
    )
    usage = Usage(job.prompt_tokens, len(job.said))
    return Finished(job.request.request_id, reason, usage, timings)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve an EchoEngine at a socket, as a worker process does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--step-s", type=float, default=0.0)
    parser.add_argument("--load-until", type=Path, help="loading takes until this is there")
    parser.add_argument("--drain-s", type=float, default=5.0)
    parser.add_argument("--says", type=Path, help="every answer is what this file holds")
    parser.add_argument("--wedge", action="store_true", help="the question `wedge` never ends")
    parser.add_argument("--fence", action="store_true", help="stand behind an engine's fence")
    given = parser.parse_args(argv)

    def load(progress: Progress) -> Engine:
        progress.start("weights", 1000)
        while given.load_until and not given.load_until.exists():
            time.sleep(0.02)
        progress.advance(1000)
        progress.done()
        return EchoEngine(
            slots=given.slots,
            context_tokens=given.context,
            step_s=given.step_s,
            wedge=given.wedge,
            says=given.says,
        )

    def fence() -> Standing | None:
        if not given.fence:
            return None
        home = given.socket.with_suffix(".home")
        move_in(home)
        own = () if given.says is None else (given.says.parent,)
        return raise_fence(engine_fence(this_place(os.environ), own, home, gpu=False))

    return process.run(load, given.socket, drain_s=given.drain_s, fence=fence)


if __name__ == "__main__":
    sys.exit(main())
