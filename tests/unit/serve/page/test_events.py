"""Events written anew from the shapes that the page knows; each check left out once."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from llava_pack.format.errors import ServeError, UsageError
from llava_pack.serve.page import events as page_events
from llava_pack.serve.page.events import (
    BoundedNumber,
    Box,
    Chat,
    EventShape,
    Word,
    read_call,
    read_cancellation,
    shapes_of,
)

_MINE = "/uploads/x/mine.png"
_EVENTS = {
    1: EventShape(queued=False, inputs=(Chat(), Box())),
    2: EventShape(queued=True, inputs=(Word(), BoundedNumber(0, 2))),
    3: EventShape(queued=False, inputs=(), picks=True),
}


def _read(number: int, *data: Any, **more: Any) -> dict[str, Any]:
    given = {"fn_index": number, "data": data, "session_hash": "abc", **more}
    call = read_call(
        json.dumps(given).encode(), _EVENTS, lambda path: path == _MINE, queued=number == 2
    )
    assert call.session == "abc"
    read: dict[str, Any] = json.loads(call.body)
    return read


def _file(path: Any, **more: Any) -> dict[str, Any]:
    return {"path": path, **more}


def _said(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts), **more}


def _text(text: Any) -> dict[str, Any]:
    return {"type": "text", "text": text}


def test_an_event_is_written_from_what_is_known_alone() -> None:
    picture = {"type": "file", "file": _file(_MINE, url="http://a.example", is_stream=True, x=1)}
    message = _said(picture, _text("<b>"), metadata={"title": "x"}, options=[1], extra=1)
    box = {"text": "<b>", "files": [_file(_MINE, url="http://a.example")], "extra": 1}
    kept = {"path": _MINE, "mime_type": "image/png", "meta": {"_type": "gradio.FileData"}}
    assert _read(1, [message], box, batched=True, event_id="x", event_data={"index": 1}) == {
        "data": [
            [
                {
                    "role": "user",
                    "metadata": None,
                    "content": [
                        {"type": "file", "file": kept, "alt_text": None},
                        {"type": "text", "text": "<\u2060b>"},
                    ],
                    "options": None,
                }
            ],
            {"text": "<b>", "files": [kept]},
        ],
        "event_data": None,
        "fn_index": 1,
        "trigger_id": None,
        "session_hash": "abc",
    }


def test_a_click_is_its_number() -> None:
    assert _read(3, event_data={"index": 1, "value": 7})["event_data"] == {
        "index": 1,
        "value": None,
    }


def test_numbers_and_words_stay_what_they_are() -> None:
    assert _read(2, "m", 1)["data"] == ["m", 1]
    assert _read(2, None, 0.5, trigger_id=7)["data"] == [None, 0.5]


# what is sent, and the rule that refuses it with what takes its place
_RULES: dict[str, tuple[Callable[[], Any], str, Callable[..., Any]]] = {
    "file": (
        lambda: _read(1, [], {"files": [_file("/etc/shadow.png")]}), "_file", lambda value, _: value,
    ),
    "type of a file": (
        lambda: _read(1, [], {"files": [_file("/uploads/x.svg")]}), "_file", lambda value, _: value,
    ),
    "part": (
        lambda: _read(1, [_said({"type": "component"})], {}), "_part", lambda value, _: value,
    ),
    "role": (
        lambda: _read(1, [{"role": "system", "content": []}], {}), "_message", lambda value, _: value,
    ),
    "text": (lambda: _read(1, [], {"text": "\ud800"}), "_text", lambda value, _: value),
    "whole": (lambda: _read(3, event_data={"index": -1}), "_whole", lambda value: value),
    "list": (lambda: _read(1, [_said()] * 257, {}), "_items", lambda value, _: value),
    "session": (
        lambda: _read(3, event_data={"index": 1}, session_hash="../abc"),
        "session_of", lambda _: "abc",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _RULES)
def test_each_rule_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    send, rule, instead = _RULES[name]
    with pytest.raises(UsageError):
        send()
    monkeypatch.setattr(page_events, rule, instead)
    send()


@pytest.mark.parametrize("value", ["1", True, None, 3, -1, 10**400, float("nan"), float("inf"), []])
def test_a_number_is_within_its_bounds(value: Any) -> None:
    with pytest.raises(UsageError, match="expected a number from 0 to 2"):
        BoundedNumber(0, 2).read(value, lambda _: False)


def test_an_input_without_a_shape_stops_the_page_from_starting() -> None:
    part = type("Gallery", (), {})()
    event = SimpleNamespace(fn=print, cancels=[], queue=True, inputs=[part], targets=[])
    with pytest.raises(ServeError, match="Gallery"):
        shapes_of(SimpleNamespace(fns={0: event}))


def test_what_only_a_browser_does_is_no_event_of_the_server() -> None:
    of_the_browser = SimpleNamespace(fn=None, cancels=[], queue=True, inputs=[], targets=[])
    of_the_queue = SimpleNamespace(fn=print, cancels=[1], queue=True, inputs=[], targets=[])
    assert shapes_of(SimpleNamespace(fns={0: of_the_browser, 1: of_the_queue})) == {}


def test_an_end_names_an_event_of_the_page() -> None:
    given = {"session_hash": "abc", "event_id": "e1", "fn_index": 2, "x": 1}
    ended = read_cancellation(json.dumps(given).encode(), _EVENTS)
    assert (ended.session, ended.event) == ("abc", "e1")
    assert json.loads(ended.body) == {"session_hash": "abc", "event_id": "e1", "fn_index": 2}
    for wrong in ({"fn_index": 9}, {"event_id": "../x"}, {"session_hash": None}):
        with pytest.raises(UsageError):
            read_cancellation(json.dumps({**given, **wrong}).encode(), _EVENTS)
