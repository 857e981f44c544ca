"""Events of the page, spoilt by chance: whatever is put where, nothing comes out and nothing breaks."""

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.page_client import PageClient, file_data, said, shown

_PATHS = (
    "/etc/passwd", "/etc/shadow", "/proc/self/environ", "/proc/self/fd/0", "/dev/zero", "/",
    "../../etc/passwd", "http://127.0.0.1:9/a.png", "https://a.example/a.png", "file:///etc/passwd",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, -1, 10**30, 1e308, float("nan"), "", "x" * 5000, "\ud800", "\x00", [], {}, [[]],
    {"path": "/etc/passwd"}, {"url": "http://127.0.0.1:9/"}, {"__type__": "update", "value": "/etc/passwd"},
)  # fmt: skip
_KEYS = ("path", "url", "file", "files", "value", "component", "type", "is_stream", "meta",
         "constructor_args", "event_id", "simple_format", "batched", "root_dir")  # fmt: skip
_EXAMPLES = ("circle", "two", "square")
_ROUTES = ("run/predict", "queue/join", "cancel", "api/predict", "call/answer", "component_server")


@dataclass
class Tally:
    """What came of the tries."""

    tries: int = 0
    by_status: dict[int, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def spoilt_events(page: PageClient, secret: Path, seed: int, count: int) -> Tally:
    """Send events that chance spoilt.

    Args:
        page: a browser; it brings one picture, which may be used.
        secret: a file whose contents must not come out.
        seed: of the chance.
        count: how many are sent.
    """
    chance = random.Random(seed)
    mine = page.upload()
    examples = [
        str(Path(mine).parents[1] / "examples" / f"example-{name}.png") for name in _EXAMPLES
    ]
    tally = Tally()
    paths = (*_PATHS, str(secret), mine, str(Path(mine).parent), mine + "/../../../../etc/passwd")
    for body in _bodies(chance, page, mine, paths, count):
        route = chance.choice(_ROUTES[:2] * 4 + _ROUTES)
        answer = page.http.post(
            f"/gradio_api/{route}", content=body, headers={"Content-Type": "application/json"}
        )
        tally.tries += 1
        tally.by_status[answer.status_code] = tally.by_status.get(answer.status_code, 0) + 1
        leaked = any(word in answer.text for word in (secret.read_text().strip(), "root:x:"))
        strange = set(_files(answer.json())) - {mine, *examples}
        if answer.status_code >= 500 or leaked or strange:
            tally.wrong.append(
                f"{route} {body[:300]} gave {answer.status_code} {answer.text[:200]}"
            )
    return tally


def _files(answer: Any) -> Iterator[str]:
    """Yield every path that an answer gives."""
    if isinstance(answer, dict):
        if isinstance(answer.get("path"), str):
            yield answer["path"]
        answer = list(answer.values())
    if isinstance(answer, list):
        for part in answer:
            yield from _files(part)


def _bodies(
    chance: random.Random, page: PageClient, mine: str, paths: tuple[str, ...], count: int
) -> Iterator[str]:
    chat = [said(shown(mine), "hi"), said("hello", role="assistant"), said("more")]
    sound: dict[str, list[Any]] = {
        "_taken": [{"text": "hi", "files": [file_data(mine)]}, chat],
        "_again": [chat],
        "_undone": [chat],
        "answer": [chat, "echo", 0.2, 0.7, 64],
        "picked": [],
    }
    for _ in range(count):
        event = chance.choice(list(sound))
        body: Any = {
            "data": copy.deepcopy(sound[event]),
            "fn_index": page.events[event],
            "session_hash": page.session,
            "event_data": {"index": 0, "value": {"files": [file_data(mine)]}},
            "trigger_id": None,
        }
        for _ in range(chance.randint(1, 3)):
            _spoil(chance, body, paths)
        yield json.dumps(body)


def _spoil(chance: random.Random, body: Any, paths: tuple[str, ...]) -> None:
    """Put something where it does not belong, somewhere within a body."""
    places: list[tuple[Any, Any]] = []
    left: list[Any] = [body]
    while left:
        part = left.pop()
        keys = list(part) if isinstance(part, dict) else range(len(part))
        for key in keys:
            places.append((part, key))
            if isinstance(part[key], dict | list):
                left.append(part[key])
    part, key = chance.choice(places)
    value = chance.choice(
        (chance.choice(paths), file_data(chance.choice(paths)), shown(chance.choice(paths)),
         copy.deepcopy(chance.choice(_VALUES)))
    )  # fmt: skip
    if isinstance(part, dict) and chance.random() < 0.3:
        part[chance.choice(_KEYS)] = value
    else:
        part[key] = value
