"""Events of the page as they come in: read into known shapes, and written anew from those alone.

The library believes what a browser sends: a path is read, an address fetched, a component built
from arguments of the sender's choice. So nothing of a request is passed on. It is read into the
few shapes that the page's own events have, and what the library gets is written from these; a
field that is not known is not there any more. Without Gradio; its parts are known by their names.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

from llava_pack.engine.inputs.picture_formats import SUFFIXES
from llava_pack.format.errors import ServeError, UsageError
from llava_pack.serve.api.messages import MAX_MESSAGES
from llava_pack.serve.api.parts import MAX_PARTS, MAX_TEXT_CHARS
from llava_pack.serve.page.text import disarmed

MAX_EVENT_BYTES = 1024 * 1024
"""The longest body of an event: a conversation, in which a picture is a path."""
PICTURE_TYPES: Mapping[str, str] = {end: one.media_type for end, one in SUFFIXES.items()}
"""What the page takes and shows, by the end of the name."""
MayUse = Callable[[str], bool]
"""Whether whoever sends an event may use a file."""
_MAX_WORD = 256
_MAX_ID = 64
_MAX_NUMBER = 10_000


class InputShape(Protocol):
    """What one input of an event may hold."""

    def read(self, value: Any, may_use: MayUse) -> Any:
        """Return the value written anew.

        Raises:
            UsageError: it has another shape, or names a file that is not the sender's.
        """


@dataclass(frozen=True)
class Chat:
    """A conversation: texts and pictures by two speakers."""

    def read(self, value: Any, may_use: MayUse) -> Any:
        """Return the messages, every text disarmed."""
        return [_message(entry, may_use) for entry in _items(value, MAX_MESSAGES)]


@dataclass(frozen=True)
class Box:
    """What is in the box: a text, and pictures."""

    def read(self, value: Any, may_use: MayUse) -> Any:
        """Return the text as it was typed, and the pictures."""
        given = _mapping(value)
        files = _items(given.get("files", []), MAX_PARTS)
        return {
            "text": _text(given.get("text", ""), MAX_TEXT_CHARS),
            "files": [_file(each, may_use) for each in files],
        }


@dataclass(frozen=True)
class Word:
    """A choice; None where there is nothing to choose from."""

    def read(self, value: Any, _may_use: MayUse) -> Any:
        """Return the word."""
        return None if value is None else _text(value, _MAX_WORD)


@dataclass(frozen=True)
class BoundedNumber:
    """A number between two others."""

    low: float
    high: float

    def read(self, value: Any, _may_use: MayUse) -> Any:
        """Return the number."""
        known = isinstance(value, int | float) and not isinstance(value, bool)
        if not known or not self.low <= value <= self.high:  # what is no number is not between
            raise UsageError(f"expected a number from {self.low:g} to {self.high:g}")
        return value


@dataclass(frozen=True, kw_only=True)
class EventShape:
    """What one event of the page takes."""

    queued: bool
    """Whether it waits in the queue."""
    inputs: tuple[InputShape, ...]
    picks: bool = False
    """Whether it says which of the examples was clicked."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """An event that may run."""

    session: str
    body: bytes
    """What the library gets."""


@dataclass(frozen=True, kw_only=True)
class Cancellation:
    """An event that is to end."""

    session: str
    event: str
    body: bytes


def shapes_of(blocks: Any) -> Mapping[int, EventShape]:
    """Return the events of a page that its server answers, by number.

    Args:
        blocks: a page of Gradio's.

    Raises:
        ServeError: an event has an input of a kind that has no shape here.
    """
    return {
        number: EventShape(
            queued=event.queue is not False,
            inputs=tuple(_shape(part) for part in event.inputs),
            picks=any(name == "example_select" for _, name in event.targets),
        )
        for number, event in blocks.fns.items()
        if event.fn and not event.cancels
    }


def _shape(part: Any) -> InputShape:
    match type(part).__name__:
        case "Chatbot":
            return Chat()
        case "MultimodalTextbox":
            return Box()
        case "Dropdown":
            return Word()
        case "Slider":
            return BoundedNumber(part.minimum, part.maximum)
        case other:
            raise ServeError(f"nothing says what an event may send for a {other}")


def read_call(
    body: bytes, events: Mapping[int, EventShape], may_use: MayUse, *, queued: bool
) -> Call:
    """Return an event that came in, written anew.

    Args:
        body: as it came, at most MAX_EVENT_BYTES.
        events: of the page.
        may_use: for the files that it names.
        queued: whether it came by the route of events that wait.

    Raises:
        UsageError: the page has no such event, or a value has another shape.
    """
    given = _mapping(_json(body))
    number = _whole(given.get("fn_index"))
    event = events.get(number)
    if event is None or event.queued is not queued:
        raise UsageError("the page has no such event; reload it")
    data = _items(given.get("data"), len(event.inputs))
    if len(data) != len(event.inputs):
        raise UsageError(f"the event expects {len(event.inputs)} values, got {len(data)}")
    session = session_of(given.get("session_hash"))
    values = zip(event.inputs, data, strict=True)
    kept = {
        "data": [shape.read(value, may_use) for shape, value in values],
        "event_data": _picked(given.get("event_data")) if event.picks else None,
        "fn_index": number,
        "trigger_id": None if given.get("trigger_id") is None else _whole(given["trigger_id"]),
        "session_hash": session,
    }
    return Call(session=session, body=json.dumps(kept).encode())


def read_cancellation(body: bytes, events: Mapping[int, EventShape]) -> Cancellation:
    """Return a request to end an event, written anew.

    Raises:
        UsageError: it has another shape, or the page has no such event.
    """
    given = _mapping(_json(body))
    session, event = session_of(given.get("session_hash")), session_of(given.get("event_id"))
    number = _whole(given.get("fn_index"))
    if number not in events:
        raise UsageError("the page has no such event; reload it")
    kept = {"session_hash": session, "fn_index": number, "event_id": event}
    return Cancellation(session=session, event=event, body=json.dumps(kept).encode())


def session_of(value: Any) -> str:
    """Return the name of a session, as the page in a browser makes it up.

    Raises:
        UsageError: it is none.

    >>> session_of("hja71abydth")
    'hja71abydth'
    """
    name = _text(value, _MAX_ID)
    if not (name.isascii() and name.isalnum()):
        raise UsageError("expected letters and digits as the session's name")
    return name


def picture_type(path: str) -> str | None:
    """Return the media type of a picture by the end of its name; None where it is none."""
    return PICTURE_TYPES.get(PurePosixPath(path).suffix.lower())


def _message(value: Any, may_use: MayUse) -> Any:
    given = _mapping(value)
    role = given.get("role")
    if role not in ("user", "assistant"):
        raise UsageError("expected the role user or assistant in a message")
    parts = [_part(part, may_use) for part in _items(given.get("content"), MAX_PARTS)]
    return {"role": role, "metadata": None, "content": parts, "options": None}


def _part(value: Any, may_use: MayUse) -> Any:
    given = _mapping(value)
    match given.get("type"):
        case "text":
            return {"type": "text", "text": disarmed(_text(given.get("text"), MAX_TEXT_CHARS))}
        case "file":
            return {"type": "file", "file": _file(given.get("file"), may_use), "alt_text": None}
        case _:
            raise UsageError("expected texts and pictures in a message")


def _file(value: Any, may_use: MayUse) -> Any:
    path = _text(_mapping(value).get("path"), 4096)
    kind = picture_type(path)
    if kind is None or not may_use(path):
        raise UsageError("a picture must first be uploaded by its user: add it again")
    return {"path": path, "mime_type": kind, "meta": {"_type": "gradio.FileData"}}


def _picked(value: Any) -> Any:
    """Return which of several was clicked; what is behind it, the server knows itself."""
    return {"index": _whole(_mapping(value).get("index")), "value": None}


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UsageError("the event is not JSON, or nested too deeply") from error


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError("expected an object")
    return value


def _items(value: Any, most: int) -> list[Any]:
    if not isinstance(value, list):
        raise UsageError("expected a list")
    if len(value) > most:
        raise UsageError(f"at most {most} are allowed, got {len(value)}; clear the conversation")
    return value


def _text(value: Any, most: int) -> str:
    if not isinstance(value, str):
        raise UsageError("expected a text")
    if len(value) > most:
        raise UsageError(f"expected a text of at most {most} characters")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise UsageError("expected whole characters, got half of a surrogate pair")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_NUMBER:
        raise UsageError(f"expected a whole number from 0 to {_MAX_NUMBER}")
    return value
