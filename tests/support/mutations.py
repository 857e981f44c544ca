"""Checks left out of a gateway that runs, one at a time: what they hold back must come through."""

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from llava_pack.serve.api import decoders
from llava_pack.serve.page import events as page_events
from llava_pack.serve.page import gate as page_gate
from llava_pack.serve.page import owners as page_owners
from llava_pack.serve.page import text as page_text
from llava_pack.serve.page.owners import Owners


def _no_gate() -> None:
    """Leave out the gate, and the library's own check behind it."""

    async def through(self: Any, scope: Any, receive: Any, send: Any) -> None:
        self._app.get_blocks().has_launched = False
        await self._app(scope, receive, send)

    page_gate.PageGate.__call__ = through  # type: ignore[method-assign]


def _only_the_library() -> None:
    """Leave out the gate; the library's own check stays."""

    async def through(self: Any, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)

    page_gate.PageGate.__call__ = through  # type: ignore[method-assign]


def _any_file() -> None:
    page_gate.PageGate._may_use = lambda *_: True  # type: ignore[method-assign]
    page_events.PICTURE_TYPES = _AnyType()


class _AnyType(dict[str, str]):
    def get(self, _name: str, _other: Any = None) -> Any:
        return "image/png"


def _any_owner() -> None:
    Owners.may_use = lambda *_: True  # type: ignore[method-assign]


def _any_session() -> None:
    Owners.claim = Owners.holds = Owners.runs = lambda *_: True  # type: ignore[method-assign,assignment]


def _armed_text() -> None:
    page_text._SEAMS = re.compile(r"(?!)")


def _little_room() -> None:
    """Leave out nearly all the room that a key's uploads have: what makes room is seen sooner."""
    page_owners._UPLOAD_BYTES = 5_000


def _pixels_inside() -> None:
    """Leave out the files that decoded pictures lie in."""
    decoders.__dict__["kept"] = lambda file, size: os.pread(file, size, 0)


def _halves_stay() -> None:
    page_gate.__dict__["half_uploads_removed"] = contextlib.nullcontext


MUTATIONS: Mapping[str, Callable[[], None]] = {
    "gate": _no_gate,
    "gate alone": _only_the_library,
    "files": _any_file,
    "owners": _any_owner,
    "sessions": _any_session,
    "text": _armed_text,
    "room": _little_room,
    "pixels": _pixels_inside,
    "halves": _halves_stay,
}
