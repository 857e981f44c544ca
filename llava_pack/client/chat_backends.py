"""Who answers in `chat`: a model in this process, or a server."""

import itertools
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from llava_pack.client.api_server import ApiServer
from llava_pack.client.completions import stream
from llava_pack.client.turns import ChatAnswer, Turn
from llava_pack.engine.picture_warnings import picture_warnings
from llava_pack.engine.port import Delta, Engine, Failed, Finished, Message, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.format.progress import Progress


class Speaker(Protocol):
    """Answers conversations."""

    @property
    def name(self) -> str:
        """Return what answers, for people."""

    def answer(
        self, turns: Sequence[Turn], sampling: Sampling, answer: ChatAnswer
    ) -> Generator[str, None, None]:
        """Yield the answer's text piece by piece, and fill in `answer`; closing it cancels."""


class LocalSpeaker:
    """A model that is loaded into this process from a checkpoint's folder."""

    def __init__(self, model_dir: Path, options: dict[str, Any], progress: Progress) -> None:
        from llava_pack.engine.loading.load import load_engine

        began_s = time.monotonic()
        self._engine: Engine = load_engine(model_dir, progress=progress, **{"slots": 1, **options})
        self._load_s = time.monotonic() - began_s
        self._ids = itertools.count(1)

    @property
    def name(self) -> str:
        """Return what answers, for people."""
        info = self._engine.info
        return f"{info.model} ({info.precision} on {info.device})"

    def answer(
        self, turns: Sequence[Turn], sampling: Sampling, answer: ChatAnswer
    ) -> Generator[str, None, None]:
        """Yield the answer's text piece by piece, and fill in `answer`; closing it cancels.

        Raises:
            PackError: the question cannot be answered.
        """
        request_id = str(next(self._ids))
        messages = tuple(_message(turn) for turn in turns)
        request = Request(request_id=request_id, messages=messages, sampling=sampling)
        self._engine.submit(request)
        answer.token_ids = []
        answer.warnings = picture_warnings(seen for one in messages for seen in one.pictures)
        try:
            while not self._engine.idle:
                yield from self._step(answer)
        finally:
            self._engine.cancel(request_id)
            while not self._engine.idle:
                self._engine.step()

    def _step(self, answer: ChatAnswer) -> Iterator[str]:
        for event in self._engine.step():
            if isinstance(event, Failed):
                raise event.error()
            if isinstance(event, Delta):
                answer.text += event.text
                answer.token_ids = [*(answer.token_ids or []), *event.token_ids]
                if event.text:
                    yield event.text
            else:
                self._ended(event, answer)

    def _ended(self, event: Finished, answer: ChatAnswer) -> None:
        answer.finish_reason = event.reason
        answer.prompt_tokens = event.usage.prompt_tokens
        answer.completion_tokens = event.usage.completion_tokens
        answer.timings = {
            "load_s": round(self._load_s, 4),
            "first_token_s": round(event.timings.first_token_s, 4),
            "total_s": round(event.timings.total_s, 4),
        }


def _message(turn: Turn) -> Message:
    parts = tuple(part if isinstance(part, str) else part.picture for part in turn.parts)
    return Message(turn.role, parts)  # type: ignore[arg-type]


class ServedSpeaker:
    """A server, asked over its OpenAI-compatible API."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    @property
    def name(self) -> str:
        """Return what answers, for people."""
        return f"{self._server.model} at {self._server.url}"

    def answer(
        self, turns: Sequence[Turn], sampling: Sampling, answer: ChatAnswer
    ) -> Generator[str, None, None]:
        """Yield the answer's text piece by piece, and fill in `answer`; closing it cancels.

        Raises:
            PackError: the server refuses the question, or cannot be reached.
        """
        began_s = time.monotonic()
        first_s = 0.0
        for chunk in stream(self._server, turns, sampling):
            answer.finish_reason = chunk.finish_reason or answer.finish_reason
            answer.prompt_tokens = chunk.prompt_tokens or answer.prompt_tokens
            answer.completion_tokens = chunk.completion_tokens or answer.completion_tokens
            answer.token_ids = chunk.token_ids or answer.token_ids
            answer.warnings = chunk.warnings or answer.warnings
            if chunk.text:
                first_s = first_s or time.monotonic() - began_s
                answer.text += chunk.text
                yield chunk.text
        total_s = time.monotonic() - began_s
        answer.timings = {"first_token_s": round(first_s, 4), "total_s": round(total_s, 4)}
