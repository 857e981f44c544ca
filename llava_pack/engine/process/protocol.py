"""The engine's socket protocol, version 2: framed JSON with pictures as binary frames.

A message is one JSON frame, followed by as many binary frames as its `attachments` says; a
frame is a 4-byte big-endian length and that many bytes. The client speaks first:

    client: hello {protocol} · generate {request} + pictures · cancel {request_id} ·
            stats {tag} · tokenize, trace {tag, request} + pictures
    engine: hello {protocol, status, fence, settings} · status {status} · delta · finished ·
            failed · stats {tag, stats} · answer {tag, token_ids | trace | failed}

A status is pushed whenever it changes, so a client sees loading progress without asking. `fence`
is the engine's `Standing`, null where it tells none, and `settings` names the fields of `Sampling`,
and of a request, that it has; an engine of an earlier release has no such fields, and an earlier
client does not look for them. Of a request's sampling, what is as everybody has it is left out.
Other versions are refused in `hello`. Both sides are ours and the socket is private to one account:
bounds are there against bugs, not against strangers.
"""

import asyncio
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from llava_pack.engine.measures import Likely, Odds, Timings, Trace, Usage
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE
from llava_pack.engine.pixels import Pixels
from llava_pack.engine.port import (
    Delta,
    EngineInfo,
    Event,
    Failed,
    Finished,
    Message,
    Picture,
    Request,
)
from llava_pack.engine.sampling import Sampling
from llava_pack.engine.stats import Histogram, Stats, Work
from llava_pack.format.errors import ServeError, UsageError

PROTOCOL = 2
MAX_JSON_BYTES = 16 << 20
MAX_ATTACHMENT_BYTES = 160 << 20
MAX_ATTACHMENTS = 32
_LENGTH = struct.Struct(">I")

_HISTOGRAMS = ("first_token_s", "token_gap_s", "step_tokens")

State = Literal["loading", "ready", "draining", "failed"]
Wire = dict[str, Any]
_Bytes = TypeVar("_Bytes", bytes, Pixels)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """Where an engine process stands: what it is loading, what it serves, or why it failed."""

    state: State
    phase: str = ""
    done_bytes: int = 0
    total_bytes: int | None = None
    info: EngineInfo | None = None
    error: Failed | None = None


def encode(message: Mapping[str, Any], attachments: Sequence[_Bytes] = ()) -> list[_Bytes]:
    """Return the frames of one message, ready to be sent one after the other.

    Raises:
        UsageError: the message is larger than the other side would take.
    """
    body = json.dumps({**message, "attachments": len(attachments)}).encode()
    if len(attachments) > MAX_ATTACHMENTS:
        raise UsageError(
            f"{len(attachments)} pictures in one request, at most {MAX_ATTACHMENTS} are allowed"
        )
    if len(body) > MAX_JSON_BYTES or any(len(part) > MAX_ATTACHMENT_BYTES for part in attachments):
        raise UsageError("the request is too large", hint="use less text or smaller pictures")
    frames: list[_Bytes] = [_LENGTH.pack(len(body)), body]
    for part in attachments:
        frames += [_LENGTH.pack(len(part)), part]
    return frames


async def read_message(reader: asyncio.StreamReader) -> tuple[Wire, list[bytes]] | None:
    """Return the next message and its attachments, or None at the end of the stream.

    Raises:
        ServeError: a frame is longer than allowed, cut short, or not JSON.
    """
    try:
        body = await _read_frame(reader, MAX_JSON_BYTES)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise ServeError("the engine's socket was closed in the middle of a message") from error
        return None
    try:
        message = json.loads(body)
        count = int(message["attachments"])
    except (ValueError, KeyError, TypeError) as error:
        raise ServeError("a message on the engine's socket is malformed") from error
    if not 0 <= count <= MAX_ATTACHMENTS:
        raise ServeError(f"a message has {count} pictures, at most {MAX_ATTACHMENTS} are allowed")
    try:
        parts = [await _read_frame(reader, MAX_ATTACHMENT_BYTES) for _ in range(count)]
    except asyncio.IncompleteReadError as error:
        raise ServeError("the engine's socket was closed in the middle of a picture") from error
    return message, parts


async def _read_frame(reader: asyncio.StreamReader, max_bytes: int) -> bytes:
    (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if size > max_bytes:
        raise ServeError(f"a frame of {size} bytes, at most {max_bytes} are allowed")
    return await reader.readexactly(size)


def request_to_wire(request: Request) -> tuple[Wire, list[Pixels]]:
    """Return a request as JSON fields, and its pictures' pixels."""
    pixels: list[Pixels] = []
    messages = []
    for message in request.messages:
        parts: list[Any] = []
        for part in message.parts:
            if isinstance(part, Picture):
                parts.append({"width": part.width, "height": part.height})
                pixels.append(part.rgb)
            else:
                parts.append(part)
        messages.append({"role": message.role, "parts": parts})
    fields = {
        "request_id": request.request_id,
        "messages": messages,
        "sampling": dict(request.sampling.given),
        "conv_mode": request.conv_mode,
        "salt": request.salt,
        "new_turn": request.new_turn,
    }
    return fields, pixels


def request_from_wire(fields: Wire, attachments: Sequence[bytes]) -> Request:
    """Return the request again.

    Raises:
        UsageError: a number of it is out of range.
        ServeError: it is not a request.
    """
    pixels = iter(attachments)
    try:
        messages = tuple(
            Message(entry["role"], tuple(_part(part, pixels) for part in entry["parts"]))
            for entry in fields["messages"]
        )
        return Request(
            request_id=str(fields["request_id"]),
            messages=messages,
            sampling=Sampling.of(fields["sampling"]),
            conv_mode=fields.get("conv_mode"),
            salt=str(fields.get("salt", "")),
            new_turn=fields.get("new_turn"),
        )
    except (KeyError, TypeError, ValueError, StopIteration, RuntimeError) as error:
        raise ServeError("a request on the engine's socket is malformed") from error


def _part(part: Any, pixels: Any) -> str | Picture:
    if isinstance(part, str):
        return part
    return Picture(int(part["width"]), int(part["height"]), next(pixels))


def event_to_wire(event: Event) -> Wire:
    """Return an event as a message."""
    if isinstance(event, Delta):  # there is one for every token
        wire = {"op": "delta", "request_id": event.request_id, "text": event.text}
        return {**wire, "token_ids": event.token_ids, "odds": [_odds(odd) for odd in event.odds]}
    name = "finished" if isinstance(event, Finished) else "failed"
    return {"op": name, **asdict(event)}


def _odds(odds: Odds) -> list[list[Any]]:
    """Return the chosen token, then the likeliest ones."""
    return [[one.token_id, one.data.hex(), one.logprob] for one in (odds.chosen, *odds.likeliest)]


def _odds_from_wire(fields: Sequence[Sequence[Any]]) -> Odds:
    chosen, *others = (Likely(int(i), bytes.fromhex(data), float(p)) for i, data, p in fields)
    return Odds(chosen, tuple(others))


def event_from_wire(message: Wire) -> Event:
    """Return the event of a message.

    Raises:
        ServeError: it is not an event.
    """
    fields = {key: value for key, value in message.items() if key not in {"op", "attachments"}}
    try:
        if message["op"] == "delta":
            odds = tuple(_odds_from_wire(one) for one in fields["odds"])
            ids = tuple(fields["token_ids"])
            return Delta(fields["request_id"], fields["text"], ids, odds)
        if message["op"] == "finished":
            fields["usage"] = Usage(**fields["usage"])
            fields["timings"] = Timings(**fields["timings"])
            return Finished(**fields)
        return Failed(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ServeError("an event on the engine's socket is malformed") from error


def status_to_wire(status: EngineStatus) -> Wire:
    """Return a status as JSON fields, as servers of earlier versions take them where they can."""
    fields = asdict(status)
    if status.info is not None:
        del fields["info"]["engine"]  # it is ours
        if status.info.picture_mode == DEFAULT_PICTURE_MODE:  # they know no other
            del fields["info"]["picture_mode"]
    return fields


def status_from_wire(fields: Wire) -> EngineStatus:
    """Return a status; `status_to_wire` makes the other direction.

    Raises:
        ServeError: it is not a status.
    """
    try:
        info, error = fields["info"], fields["error"]
        rest = {key: value for key, value in fields.items() if key not in {"info", "error"}}
        return EngineStatus(
            **rest,
            info=EngineInfo(**info) if info else None,
            error=Failed(**error) if error else None,
        )
    except (KeyError, TypeError) as problem:
        raise ServeError("a status on the engine's socket is malformed") from problem


def stats_from_wire(fields: Wire) -> Stats:
    """Return counters; `asdict` makes the other direction.

    Raises:
        ServeError: they are not counters.
    """
    try:
        read: Wire = {name: _histogram(fields[name]) for name in _HISTOGRAMS}
        return Stats(**{**fields, "work": Work(**fields["work"]), **read})
    except (TypeError, KeyError) as error:
        raise ServeError("counters on the engine's socket are malformed") from error


def trace_from_wire(fields: Wire) -> Trace:
    """Return a trace; `asdict` makes the other direction.

    Raises:
        ServeError: it is none.
    """
    try:
        numbers = {name: tuple(map(float, fields[name])) for name in ("tower", "projector")}
        return Trace(**{**fields, **numbers})
    except (KeyError, TypeError, ValueError) as error:
        raise ServeError("a trace on the engine's socket is malformed") from error


def _histogram(fields: Wire) -> Histogram:
    return Histogram(tuple(fields["bounds"]), tuple(fields["counts"]), fields["total"])
