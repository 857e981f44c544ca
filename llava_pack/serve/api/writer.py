"""How a dialect of the API writes an answer, whole or piece by piece: what each of them has."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import Request as HttpRequest

from llava_pack.serve.api.translation import Answer
from llava_pack.serve.api.wire import TokenOdds
from llava_pack.serve.errors import ErrorBody, ErrorEnvelope

DONE = "data: [DONE]\n\n"
"""What ends a stream of OpenAI's older dialects."""


@dataclass(frozen=True, kw_only=True)
class AnswerHead:
    """What every piece of one answer repeats."""

    request_id: str
    model: str
    created: int
    warnings: list[str] = field(default_factory=list)
    """Of its pictures, once they are decoded: before anything of the answer is there."""


class Writer(Protocol):
    """Writes one answer in a dialect; made for that answer, and may keep what came before.

    Whatever returns pieces of a stream may return none.
    """

    @property
    def head(self) -> AnswerHead:
        """What every piece repeats."""

    @property
    def media_type(self) -> str:
        """That of a stream."""

    def whole(self, choices: Sequence[Answer]) -> str:
        """Return the answer in one piece, as JSON.

        Raises:
            ServeError: it was cut off.
        """

    def opening(self) -> Iterable[str]:
        """Return what a stream begins with, before anything of a choice is known."""

    def piece(self, index: int, text: str, odds: Sequence[TokenOdds]) -> Iterable[str]:
        """Return what is written of a step of a choice; there may be no text with it yet."""

    def ended(self, index: int, choice: Answer) -> Iterable[str]:
        """Return what is written at the end of a choice.

        Raises:
            ServeError: it was cut off.
        """

    def closing(self, choices: Sequence[Answer]) -> Iterable[str]:
        """Return what a stream ends with, once all choices have."""

    def failure(self, error: ErrorBody) -> Iterable[str]:
        """Return what ends a stream that had begun and cannot go on."""

    def ping(self) -> Iterable[str]:
        """Return what tells nothing, and keeps a stream open."""


def server_sent(body: Mapping[str, Any], name: str | None = None) -> str:
    """Return a server-sent event, with a name where the dialect gives it one."""
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {data}\n\n" if name else f"data: {data}\n\n"


def failure_sent(error: ErrorBody) -> str:
    """Return a server-sent event with an error, as OpenAI's dialects end a stream by one."""
    return server_sent(ErrorEnvelope(error=error).model_dump())


def head_of(request: HttpRequest, prefix: str, model: str) -> AnswerHead:
    """Return what the pieces of a request's answer will repeat.

    Args:
        request: as it came.
        prefix: of the answer's id, which tells the kind of it.
        model: by what name the answer calls it.
    """
    return AnswerHead(
        request_id=f"{prefix}-{request.state.request_id}", model=model, created=int(time.time())
    )
