"""A pytest plugin that writes down every message of `checkpoint/` that is made while tests run.

    SPOKEN=said.jsonl python -m pytest -p tests.support.spoken tests/unit/checkpoint

A line of JSON for each: its text, its subject, and the places in the sources that it passed through:
those that called for it, and those of the error that it was made from.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import llava_pack.checkpoint
from llava_pack.checkpoint.defects import Defect
from llava_pack.format.errors import CheckpointError, UsageError

ROOM = Path(llava_pack.checkpoint.__file__).parent

_said: dict[tuple[Any, ...], dict[str, Any]] = {}


def pytest_configure() -> None:
    """Listen to errors and findings."""
    for kind in (CheckpointError, UsageError, Defect):
        setattr(kind, "__init__", _heard(kind.__init__))  # noqa: B010 - mypy allows no other way


def pytest_sessionfinish() -> None:
    """Write what was heard."""
    lines = "".join(f"{json.dumps(one)}\n" for one in _said.values())
    Path(os.environ["SPOKEN"]).write_text(lines, encoding="utf-8")


def _heard(made: Callable[..., None]) -> Callable[..., None]:
    def listens(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        places = tuple(dict.fromkeys((*_callers(sys._getframe(1)), *_causes())))
        if places:
            _said[(str(self), *places)] = {
                "text": str(self),
                "subject": self.subject,
                "places": places,
            }

    return listens


def _callers(frame: FrameType | None) -> Iterator[tuple[str, int]]:
    while frame is not None:
        yield from _place(frame, frame.f_lineno)
        frame = frame.f_back


def _causes() -> Iterator[tuple[str, int]]:
    """Yield where the error was raised that is being handled now."""
    error = sys.exception()
    trace = error.__traceback__ if error else None
    while trace is not None:
        yield from _place(trace.tb_frame, trace.tb_lineno)
        trace = trace.tb_next


def _place(frame: FrameType, line: int) -> Iterator[tuple[str, int]]:
    path = Path(frame.f_code.co_filename)
    if path.parent == ROOM:
        yield path.name, line
