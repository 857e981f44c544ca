"""What a replica answers: server-sent events of its API, as events of the engine port. Pure."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from llava_pack.engine.measures import Likely, Odds, Timings, Usage
from llava_pack.engine.port import (
    ContextLengthError,
    Delta,
    Event,
    Failed,
    Finished,
    Reason,
)
from llava_pack.engine.sampling import GrammarError
from llava_pack.format.errors import ServeError, UsageError
from llava_pack.serve.port import LaterError

_DATA = b"data: "
_DONE = b"[DONE]"
_UNKNOWN_ID = 0
_MIN_FAULT = 500
_OF_CLIENT = frozenset({400, 413, 422})
_CONTEXT = "context_length_exceeded"
_GRAMMAR = "structured_outputs"


class Answer:
    """An answer as it comes in.

    Args:
        request_id: of the request, which its events carry.
        began_s: when it was asked, by the clock of `now_s` below.
    """

    def __init__(self, request_id: str, began_s: float) -> None:
        self._request_id = request_id
        self._began_s = began_s
        self._first_s: float | None = None
        self._reason: Reason | None = None
        self._rest = b""

    def take(self, data: bytes, now_s: float) -> Iterator[Event]:
        """Yield the events that are whole with some more bytes; the last one is of the end.

        Raises:
            ServeError: it is no answer, or the replica could not go on.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(_DATA) and not line.startswith(_DONE, len(_DATA)):
                try:
                    yield from self._piece(json.loads(line[len(_DATA) :]), now_s)
                except (ValueError, KeyError, TypeError, IndexError) as error:
                    raise ServeError("a replica's answer is malformed") from error

    def _piece(self, chunk: Mapping[str, Any], now_s: float) -> Iterator[Event]:
        if "error" in chunk:
            error = chunk["error"]
            status = 400 if error["type"] == "invalid_request_error" else 503
            yield refusal(self._request_id, status, error)
        elif chunk["choices"]:
            yield from self._choice(chunk["choices"][0], now_s)
        elif self._reason is not None:
            yield self._end(chunk["usage"], now_s)

    def _choice(self, choice: Mapping[str, Any], now_s: float) -> Iterator[Event]:
        text = choice["text"] if "text" in choice else choice["delta"].get("content")
        odds = _odds(choice.get("logprobs") or {})
        ids = tuple(choice.get("token_ids") or (one.chosen.token_id for one in odds))
        if text or odds or ids:
            self._first_s = self._first_s or now_s
            yield Delta(self._request_id, text or "", ids, odds)
        if choice["finish_reason"]:
            self._reason = cast("Reason", choice["finish_reason"])

    def _end(self, usage: Mapping[str, Any], now_s: float) -> Finished:
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        usage_told = Usage(usage["prompt_tokens"], usage["completion_tokens"], cached)
        first_s = (self._first_s or now_s) - self._began_s
        timings = Timings(queued_s=0.0, first_token_s=first_s, total_s=now_s - self._began_s)
        return Finished(self._request_id, self._reason or "stop", usage_told, timings)


def _odds(told: Mapping[str, Any]) -> tuple[Odds, ...]:
    """Return odds, of which a replica tells no ids, and of a plain text no bytes either."""
    if "content" in told:
        return tuple(
            Odds(_likely(one), tuple(_likely(each) for each in one["top_logprobs"]))
            for one in told["content"]
        )
    rows = zip(
        told.get("tokens", ()), told.get("token_logprobs", ()), told.get("top_logprobs", ()),
        strict=True,
    )  # fmt: skip
    return tuple(
        Odds(
            Likely(_UNKNOWN_ID, token.encode(), logprob),
            tuple(Likely(_UNKNOWN_ID, text.encode(), value) for text, value in likely.items()),
        )
        for token, logprob, likely in rows
    )


def _likely(told: Mapping[str, Any]) -> Likely:
    return Likely(_UNKNOWN_ID, bytes(told["bytes"] or ()), float(told["logprob"]))


def refusal(request_id: str, status: int, error: Mapping[str, Any]) -> Failed:
    """Return the end of a request that a replica refused; what is a client's fault is told so.

    Raises:
        ServeError: it is the replica's: another one may answer.

    >>> refusal("r", 400, {"message": "too long", "code": "context_length_exceeded"}).kind
    'context-length'
    """
    message = str(error.get("message", ""))
    if status in _OF_CLIENT:
        param, code = str(error.get("param") or ""), error.get("code")
        kind = ContextLengthError.kind if code == _CONTEXT else UsageError.kind
        if param.startswith(_GRAMMAR):
            kind, message = GrammarError.kind, message.removeprefix(f"{param}: ")
        return Failed(request_id, kind, message)
    if status in {429, 503}:
        raise LaterError(f"a replica does not answer now: {message}")
    told = "refuses the key" if status in {401, 403} else f"answered {status}"
    raise ServeError(f"a replica {told}", hint="llava-pack status")
