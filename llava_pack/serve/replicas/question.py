"""What a replica is asked: a request, as the body of its own API. Pure.

Everything of a request has a field there, for it came in by the same API. What a prompt that is
used as it is shows of pictures has none.

Source: docs/reference/http-api.md; docs/reference/request-fields.md.
"""

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

from llava_pack.checkpoint.templates import RAW
from llava_pack.engine.port import Message, Part, Picture, Request
from llava_pack.engine.sampling import GrammarKind
from llava_pack.format.errors import UsageError

CHAT, COMPLETIONS, TOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize"
HOLDS = "structured_outputs"
"""The field that says what an answer is held to."""
_HELD: Mapping[GrammarKind, str] = {
    "json_schema": "json", "regex": "regex", "choice": "choice", "grammar": "grammar"
}  # fmt: skip
_AS_THEY_ARE = (
    "temperature", "top_p", "seed", "max_tokens", "top_k", "min_p", "repetition_penalty",
    "frequency_penalty", "presence_penalty", "min_tokens", "ignore_eos",
)  # fmt: skip


def answer_body(request: Request, model: str) -> tuple[str, bytes]:
    """Return the path and the body that ask for an answer, as a stream.

    Raises:
        UsageError: it is a prompt with pictures, which only LLaVA's own protocol has.
    """
    sampling = request.sampling
    fields: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        **{name: getattr(sampling, name) for name in _AS_THEY_ARE},
    }
    fields |= {"stop": sampling.stop} if sampling.stop else {}
    fields |= {"stop_token_ids": sampling.stop_token_ids} if sampling.stop_token_ids else {}
    fields |= {"logit_bias": dict(sampling.logit_bias)} if sampling.logit_bias else {}
    fields |= {"cache_salt": request.salt} if request.salt else {}
    if (grammar := sampling.grammar) is not None:
        kind = _HELD[grammar.kind]
        text = json.loads(grammar.text) if grammar.kind == "choice" else grammar.text
        fields[HOLDS] = {kind: text}
    if request.conv_mode == RAW:
        fields |= {"prompt": _prompt(request)}
        fields |= {} if sampling.logprobs is None else {"logprobs": sampling.logprobs}
        return COMPLETIONS, _json(fields)
    if sampling.logprobs is not None:
        fields |= {"logprobs": True, "top_logprobs": sampling.logprobs}
    return CHAT, _json({**fields, **_conversation(request), "return_token_ids": True})


def tokenize_body(request: Request, model: str) -> bytes:
    """Return the body that asks for the ids of a prompt.

    Raises:
        UsageError: as `answer_body`.
    """
    asked = {"prompt": _prompt(request)} if request.conv_mode == RAW else _conversation(request)
    return _json({"model": model, **asked})


def _conversation(request: Request) -> dict[str, Any]:
    fields: dict[str, Any] = {"messages": [_message(one) for one in request.messages]}
    return fields if request.new_turn is None else {
        **fields, "add_generation_prompt": request.new_turn
    }  # fmt: skip


def _message(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": [_part(part) for part in message.parts]}


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": _url(part)}}


def _url(picture: Picture) -> str:
    """Return a picture as a data: URL, pixel for pixel. Source: RFC 2397."""
    from PIL import Image

    file = io.BytesIO()
    Image.frombytes("RGB", picture.size, bytes(picture.rgb)).save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _prompt(request: Request) -> str:
    (message,) = request.messages
    if message.pictures:
        raise UsageError(
            "a prompt of LLaVA's own protocol with pictures is answered by no replica",
            hint="ask as a conversation, or ask a server that has the model itself",
        )
    return "".join(part for part in message.parts if isinstance(part, str))


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode()
