"""An answer of an OpenAI-compatible engine as events, piece by piece.

Source: OpenAI API reference, "Streaming"; vllm 0.32.0 (`token_ids` of each piece); sglang 0.5.23
srt/entrypoints/openai/serving_chat.py (`sglext`, all ids at the end); lmdeploy 0.18.0
serve/openai/protocol.py (`output_ids` of each piece).
"""

import json
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any

from llava_pack.engine.measures import UNTOLD, Likely, Odds, Timings, Usage
from llava_pack.engine.port import Delta, Event, Failed, Finished, Reason
from llava_pack.format.errors import ServeError
from llava_pack.serve.engines.event_stream import EventStream

_DONE = b"[DONE]"
_NEVER = -9999.0
_AS_ID = "token_id:"
"""Source: vllm 0.32.0, `return_tokens_as_token_ids`."""
_ENDS: Mapping[str, Reason] = {"length": "length", "abort": "cancelled"}
"""Any other reason is a stop of some kind."""
_FAILED = frozenset({"error", "parse_error"})


class AnswerReader:
    """Reads one answer.

    Args:
        request_id: that the events carry.
        opened: whether the answer begins a turn: then the space before it is the template's.
        tokens: the special tokens of the model: they add no bytes.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        request_id: str,
        *,
        opened: bool,
        tokens: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request_id = request_id
        self._begins = opened
        self._tokens = tokens
        self._clock = clock
        self._came_s = clock()
        self._first_s: float | None = None
        self._counted = 0
        self._usage: Usage | None = None
        self._reason: Reason | None = None

    def take(self, payload: Mapping[str, Any]) -> Delta | None:
        """Take the data of one event, and return what it adds to the answer, if anything.

        Raises:
            ServeError: it is not what an engine answers.
        """
        try:
            if payload.get("usage"):
                self._usage = _usage(payload["usage"])
            for choice in payload.get("choices") or ():
                if choice.get("index", 0) == 0:
                    return self._choice(choice)
            if (told := payload.get("sglext") or {}).get("output_ids"):
                return Delta(self._request_id, "", tuple(map(int, told["output_ids"][0])))
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise ServeError("the engine's answer is malformed") from error
        return None

    def finished(self) -> Finished:
        """Return the end of the answer.

        Raises:
            ServeError: it has not come.
        """
        if self._reason is None:
            raise ServeError("the engine's answer ended before its end")
        now_s = self._clock()
        first_s = (self._first_s or now_s) - self._came_s
        usage = self._usage or Usage(0, self._counted)
        timings = Timings(0.0, first_s, now_s - self._came_s)
        return Finished(self._request_id, self._reason, usage, timings)

    def _choice(self, choice: Mapping[str, Any]) -> Delta | None:
        if (reason := choice.get("finish_reason")) is not None:
            if reason in _FAILED:
                raise ServeError("the engine failed in the middle of an answer")
            self._reason = _ENDS.get(str(reason), "stop")
        delta = choice.get("delta")
        text = _text(choice.get("text") if delta is None else delta.get("content"))
        ids = tuple(map(int, choice.get("token_ids") or choice.get("output_ids") or ()))
        odds = tuple(_odds(choice.get("logprobs") or {}, ids, self._tokens))
        if not (text or ids or odds):
            return None
        if self._first_s is None:
            self._first_s = self._clock()
        self._counted += len(ids) or len(odds) or 1
        if self._begins and text:
            self._begins, text = False, text.removeprefix(" ")
        return Delta(self._request_id, text, ids, odds)


async def events_of(
    pieces: AsyncGenerator[bytes, None],
    reader: AnswerReader,
    failure: Callable[[Mapping[str, Any]], Failed | None],
) -> AsyncGenerator[Event, None]:
    """Yield the events of an answer that has begun; what failed within it is its end.

    Args:
        pieces: of the body, as they come; closed at the end.
        reader: of this answer.
        failure: says what an event tells of a failure; None where it tells of none.

    Raises:
        ServeError: it is not what an engine answers, or ends too soon.
    """
    stream, done = EventStream(), False
    async with aclosing(pieces):
        async for piece in pieces:
            for data in stream.feed(piece):
                if done or data == _DONE:  # the rest is read, so that the line can be kept
                    done = True
                    continue
                payload = payload_of(data)
                if (failed := failure(payload)) is not None:
                    yield failed
                    return
                if (delta := reader.take(payload)) is not None:
                    yield delta
    yield reader.finished()


def payload_of(data: bytes) -> Mapping[str, Any]:
    """Return the JSON of an event.

    Raises:
        ServeError: it is none.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ServeError("the engine's answer is malformed") from error
    if not isinstance(value, Mapping):
        raise ServeError("the engine's answer is malformed")
    return value


def _text(value: Any) -> str:
    """Return a piece of text that can be written as UTF-8."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError
    return value if value.isascii() else value.encode(errors="replace").decode()


def _usage(fields: Mapping[str, Any]) -> Usage:
    details = fields.get("prompt_tokens_details") or {}
    cached = int(details.get("cached_tokens") or 0)
    return Usage(int(fields["prompt_tokens"]), int(fields.get("completion_tokens") or 0), cached)


def _odds(
    fields: Mapping[str, Any], ids: tuple[int, ...], tokens: frozenset[str]
) -> Iterable[Odds]:
    """Yield the odds of a piece, from the form of either endpoint."""
    steps = list(fields.get("content") or _older(fields))
    told = ids if len(ids) == len(steps) else (UNTOLD,) * len(steps)
    for step, token_id in zip(steps, told, strict=True):
        chosen = _likely(step, token_id, tokens)
        others = [_likely(one, UNTOLD, tokens) for one in step.get("top_logprobs") or ()]
        yield Odds(chosen, tuple(chosen if _same(one, chosen) else one for one in others))


def _older(fields: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """Yield the steps of the older form's four lists.

    Source: OpenAI API reference, "Create completion".
    """
    tops = fields.get("top_logprobs") or ()
    for index, token in enumerate(fields.get("tokens") or ()):
        likeliest = (tops[index] if index < len(tops) else None) or {}
        ordered = sorted(likeliest.items(), key=lambda one: -one[1])
        yield {
            "token": token,
            "logprob": fields["token_logprobs"][index],
            "top_logprobs": [{"token": name, "logprob": value} for name, value in ordered],
        }


def _likely(fields: Mapping[str, Any], token_id: int, tokens: frozenset[str]) -> Likely:
    token, data = _text(fields["token"]), fields.get("bytes")
    if token.startswith(_AS_ID):
        token_id = int(token.removeprefix(_AS_ID))
    logprob = float(fields["logprob"] if fields["logprob"] is not None else _NEVER)
    said = b"" if token in tokens else token.encode() if data is None else bytes(data)
    return Likely(token_id, said, _NEVER if math.isnan(logprob) else max(logprob, _NEVER))


def _same(one: Likely, chosen: Likely) -> bool:
    return (one.data, one.logprob) == (chosen.data, chosen.logprob)
