"""What an OpenAI-compatible engine refuses, as an error of ours and in our words.

An engine's own words name its files, its sockets and its options: they go to the log alone.
"""

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from llava_pack.engine.port import ContextLengthError, Request
from llava_pack.engine.sampling import GrammarError
from llava_pack.format.errors import PackError, ServeError, UsageError
from llava_pack.format.text import visible
from llava_pack.profiles.profile import Dialect

_log = logging.getLogger(__name__)
_LOGGED_CHARS = 300
_ASKED_WRONG = frozenset({400, 413, 422})
_BUSY = frozenset({429, 503})

_TOO_LONG = (
    # Source: vllm 0.33.0 vllm/renderers/params.py, 0.19.1 vllm/entrypoints/openai/engine/serving.py
    re.compile(
        r"maximum context length is (?P<limit>\d+) tokens.*?"
        r"(?:prompt contains (?P<least>at least)|requested) (?P<asked>\d+) (?:input )?tokens"
    ),
    re.compile(r"maximum context length is (?P<limit>\d+) tokens"),
    re.compile(r"The decoder prompt \(length (?P<asked>\d+)\) is longer than the maximum model"),
    # Source: sglang 0.5.23 srt/managers/tokenizer_manager.py, _validate_one_request
    re.compile(
        r"The input \((?P<asked>\d+) tokens\) is longer than the model's context length "
        r"\((?P<limit>\d+) tokens\)"
    ),
    # Source: lmdeploy 0.18.0 serve/core/async_engine.py, ErrorCode.CONTEXT_LENGTH_EXCEEDED
    re.compile(
        r"Input length \((?P<asked>\d+)\) must be smaller than the model context length "
        r"\((?P<limit>\d+)\)"
    ),
)
_ROOM = re.compile(
    r"maximum context length of (?P<limit>\d+) tokens.*?"
    r"(?P<asked>\d+) tokens from the input messages"
)
"""Source: sglang 0.5.23 srt/managers/tokenizer_manager.py, `validate_total_tokens`."""
_HELD = re.compile(r"grammar|regex|schema|guided|structured|ebnf", re.IGNORECASE)
"""Source: vllm 0.33.0 vllm/v1/structured_output/backend_*.py; sglang 0.5.23
srt/constrained/*_backend.py."""


def room_told(status: int, body: bytes) -> int | None:
    """Return for how many tokens of an answer an engine says that there is room beside a prompt.

    None where it says nothing of that kind, or there is none.
    """
    found = _ROOM.search(_said(body).get("message", "")) if status in _ASKED_WRONG else None
    room = int(found["limit"]) - int(found["asked"]) if found else 0
    return room if room > 0 else None


def refusal(status: int, body: bytes, request: Request, dialect: Dialect) -> PackError:
    """Return the error of an answer that is none.

    Args:
        status: as HTTP has it, or what stands in its place within a stream.
        body: with one of the two envelopes, or anything else.
        request: what was asked.
        dialect: of the engine.
    """
    said = _said(body)
    words = said.get("message", "")
    _log.warning(
        "%s: the engine answered %d: %s",
        request.request_id, status, visible(words or body.decode(errors="replace"))[:_LOGGED_CHARS],
    )  # fmt: skip
    if status in _ASKED_WRONG:
        return _asked_wrong(words, said.get("param", ""), request, dialect)
    if status in {401, 403}:
        return ServeError("the engine refuses the key of this start")
    if status in _BUSY:
        return ServeError("the engine takes no requests just now", hint="try again")
    return ServeError("the engine failed at this request", hint="its log tells why")


def failure_in(payload: Mapping[str, Any]) -> tuple[int, bytes] | None:
    """Return the status and the body of an error that came within a stream, None for none.

    Source: vllm and lmdeploy, `{"error": {…}}`; sglang 0.5.23 serving_base.py,
    create_streaming_error_response; the flat form of its errors outside streams.
    """
    told = payload.get("error")
    if told is None and payload.get("object") == "error":
        told = payload
    if told is None:
        return None
    code = told.get("code") if isinstance(told, Mapping) else None
    status = code if type(code) is int and 400 <= code < 600 else 500
    return status, json.dumps({"error": told}).encode()


def _asked_wrong(words: str, param: str, request: Request, dialect: Dialect) -> PackError:
    for pattern in _TOO_LONG:
        if (found := pattern.search(words)) is not None:
            return _too_long(found.groupdict())
    if request.sampling.grammar is not None and _HELD.search(words):
        kind = request.sampling.grammar.kind.replace("_", " ")
        return GrammarError(f"the engine of this model cannot use the {kind}")
    ours = {theirs: name for name, theirs in dialect.sampling.items()}
    if (setting := ours.get(param.removeprefix("body."))) is not None:
        return UsageError("the engine of this model does not accept this value", subject=setting)
    return UsageError("the engine of this model does not accept this request")


def _too_long(told: Mapping[str, str | None]) -> ContextLengthError:
    asked, limit = told.get("asked"), told.get("limit")
    has = f"the prompt has {asked} tokens" if asked else "the prompt is too long"
    if told.get("least"):  # it stops counting there
        has = f"the prompt has at least {asked} tokens"
    most = f", the model's limit is {limit} including the answer" if limit else ""
    hint = "use a shorter text, fewer turns or fewer pictures"
    return ContextLengthError(f"{has}{most}", hint=hint)


def _said(body: bytes) -> dict[str, str]:
    """Return what an error's envelope says, nothing where it is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    for inner in ("error", "detail"):
        if isinstance(value, Mapping) and isinstance(value.get(inner), Mapping):
            value = value[inner]
    if not isinstance(value, Mapping):
        return {}
    return {name: said for name, said in value.items() if isinstance(said, str)}
