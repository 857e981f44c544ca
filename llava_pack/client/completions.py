"""A small client of our own server: one streamed chat completion over server-sent events.

Source: OpenAI API reference, "Create chat completion", streaming.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava_pack.client.api_server import ApiServer
from llava_pack.client.discovery import QUICK_S
from llava_pack.client.turns import Turn
from llava_pack.engine.inputs.picture_formats import format_of
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import AccessError, PackError, ServeError, UsageError
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.run_state import RunState, serving

if TYPE_CHECKING:
    import httpx

_READ_S = 600.0
_REFUSED = {400: UsageError, 401: AccessError, 403: AccessError, 404: UsageError, 413: UsageError,
            422: UsageError}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of a stream."""

    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    token_ids: list[int] | None = None
    warnings: tuple[str, ...] = ()


def find_server(model: str | None = None) -> ApiServer:
    """Return the server of this machine to ask, the latest started, with the model's name on it.

    Raises:
        ServeError: no server of this installation is running, none has that model, or its runtime
            has no such API.
    """
    found = serving()
    servers = [server for server in found if RUNTIMES[server.engine].gateway]
    if found and not servers:
        title = RUNTIMES[found[0].engine].title
        raise ServeError(
            f"the server runs {title}, which has no OpenAI-compatible API",
            subject=", ".join(found[0].models),
            hint=f"open its page: {found[0].url}",
        )
    if not servers:
        raise ServeError(
            "no server of this installation is running",
            hint="start one with `llava-pack serve`, or pass a folder with --model-path DIR",
        )
    for server in servers:
        if model is None and server.models:
            return _on_this_machine(server, server.models[0])
        if model in server.models:
            return _on_this_machine(server, str(model))
    names = ", ".join(sorted({name for server in servers for name in server.models}))
    raise ServeError(f"no server has the model {model!r}, running: {names}")


def _on_this_machine(server: RunState, model: str) -> ApiServer:
    return ApiServer(url=server.url, token=server.token, socket=server.socket, model=model)


def stream(server: ApiServer, turns: Sequence[Turn], sampling: Sampling) -> Iterator[Chunk]:
    """Yield the chunks of an answer.

    Raises:
        UsageError: the server finds fault with the question.
        AccessError: the token is wrong.
        ServeError: the server cannot be reached, or fails.
    """
    import httpx

    body = {
        "model": server.model,
        "messages": [_message(turn) for turn in turns],
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        **sampling_fields(sampling),
    }
    try:
        with server.client() as client:
            yield from chunks(client, body, httpx.Timeout(_READ_S, connect=QUICK_S))
    except httpx.HTTPError as error:
        raise server.unreachable(error) from error


def chunks(
    client: "httpx.Client", body: Mapping[str, Any], timeout: "httpx.Timeout"
) -> Iterator[Chunk]:
    """Yield the chunks of an answer.

    Args:
        client: of the server, see `discovery.connection`.
        body: the request, which asks for a stream.
        timeout: of each connect, read and write.

    Raises:
        PackError: the server refuses the question, or fails.
        httpx.HTTPError: it cannot be reached.
    """
    path = "/v1/chat/completions"
    with client.stream("POST", path, json=body, timeout=timeout) as response:
        if response.is_error:
            response.read()
            raise refusal(response)
        yield from _events(response.iter_lines())


def _events(lines: Iterator[str]) -> Iterator[Chunk]:
    ended = False
    for line in lines:
        name, _, value = line.partition(":")
        if name != "data":
            continue
        if value.strip() == "[DONE]":
            return
        event = _parsed(value)
        if "error" in event:
            raise ServeError(_error_text(event) or "the server failed while answering")
        chunk = _chunk(event)
        ended = ended or chunk.finish_reason is not None
        yield chunk
    if not ended:
        raise ServeError("the server ended the answer early", hint="llava-pack health")


def _chunk(event: dict[str, Any]) -> Chunk:
    choices = event.get("choices") or [{}]
    usage = event.get("usage") or {}
    return Chunk(
        text=(choices[0].get("delta") or {}).get("content") or "",
        finish_reason=choices[0].get("finish_reason"),
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        token_ids=choices[0].get("token_ids"),
        warnings=tuple(map(str, event.get("warnings") or ())),
    )


def _parsed(value: str) -> dict[str, Any]:
    try:
        event = json.loads(value)
    except ValueError as error:
        raise ServeError("the server sent an event that is not valid") from error
    if not isinstance(event, dict):
        raise ServeError("the server sent an event that is not valid")
    return event


def refusal(response: "httpx.Response") -> PackError:
    """Return the error for an answer that is one, in its own class."""
    kind = _REFUSED.get(response.status_code, ServeError)
    try:
        text = _error_text(_parsed(response.text))
    except ServeError:
        text = ""
    return kind(text or f"the server responded with HTTP {response.status_code}")


def _error_text(event: dict[str, Any]) -> str:
    error = event.get("error")
    return str(error.get("message", "")) if isinstance(error, dict) else str(error or "")


def _message(turn: Turn) -> dict[str, Any]:
    parts = turn.parts
    if not turn.attachments:
        return {"role": turn.role, "content": turn.text}
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else picture_part(part.data)
        for part in parts
    ]
    return {"role": turn.role, "content": content}


def picture_part(data: bytes) -> dict[str, Any]:
    """Return a picture's file as a part of a message."""
    return {"type": "image_url", "image_url": {"url": data_url(data)}}


def data_url(data: bytes) -> str:
    """Return a picture's file as a data: URL."""
    kind = format_of(data)
    media_type = kind.media_type if kind else "image/unknown"
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def sampling_fields(sampling: Sampling) -> dict[str, Any]:
    """Return the fields of a request that say how tokens are chosen."""
    fields: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    if sampling.seed is not None:
        fields["seed"] = sampling.seed
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    return fields
