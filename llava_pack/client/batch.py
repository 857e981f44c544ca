"""Many pictures, one question each: what is asked, what was already answered, and who answers.

A line of the output is one picture's; it is written when its answer is there, in the order in
which answers come. Running again asks only what has no answer yet.
"""

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llava_pack.client.turns import placed
from llava_pack.format import files
from llava_pack.format.errors import PackError, ServeError, UsageError, reason_of

if TYPE_CHECKING:
    import httpx

    from llava_pack.engine.port import Engine, Sampling
    from llava_pack.serve.run_state import RunState

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif"})
_AHEAD = 2
"""Requests for each slot: one is answered, the next is on its way."""
_PATIENCE_S = 600.0
_ANSWER_S = 3600.0


@dataclass(frozen=True, slots=True)
class Item:
    """One picture and what is asked about it."""

    image: str
    """As it was given, or relative to the folder: what the output says."""
    path: Path
    prompt: str

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same question."""
        return self.image, self.prompt


Line = dict[str, Any]
Answered = Iterator[tuple[Item, Line]]


class Asker(Protocol):
    """Answers items, several at a time."""

    def answers(self, items: Iterable[Item], sampling: "Sampling") -> Answered:
        """Yield each item with its answer or its error, in the order in which they come."""


def read_items(source: Path, prompt: str | None) -> list[Item]:
    """Return what is asked about: every picture below a folder, or every line of a JSONL file.

    Args:
        source: the folder or the file; a line has `image`, and may have a `prompt` of its own.
        prompt: the question where a line has none.

    Raises:
        UsageError: there is no picture, a line is not what it should be, or nothing is asked.
    """
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
        items = [_item(path.relative_to(source).as_posix(), path, prompt) for path in paths]
    else:
        items = [_of_line(source, number, line, prompt) for number, line in _lines(source)]
    if not items:
        raise UsageError(
            "no pictures found, expected PNG, JPEG, WebP or GIF files", subject=str(source)
        )
    return items


def _lines(source: Path) -> list[tuple[int, str]]:
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise UsageError(f"cannot be read: {why}", subject=str(source)) from error
    numbered = enumerate(text.splitlines(), 1)
    return [(number, line) for number, line in numbered if line.strip()]


def _of_line(source: Path, number: int, line: str, prompt: str | None) -> Item:
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    values = values if isinstance(values, dict) else {}
    image, own = values.get("image"), values.get("prompt")
    if not isinstance(image, str) or not isinstance(own, str | None):
        raise UsageError(
            f'line {number}: expected {{"image": PATH}}, optionally with a "prompt"',
            subject=str(source),
        )
    return _item(image, source.parent / image, own or prompt)


def _item(image: str, path: Path, prompt: str | None) -> Item:
    if not prompt:
        raise UsageError(f"there is no question about {image}", hint='add --prompt "What is it?"')
    placed(prompt, [image])
    return Item(image, path, prompt)


def keep_answered(out: Path) -> set[tuple[str, str]]:
    """Return what a file holds answers to; lines without one, and half lines, are taken out.

    Raises:
        UsageError: the file is something else, and stays as it is.
    """
    if not out.exists():
        return set()
    kept: list[str] = []
    done: set[tuple[str, str]] = set()
    lines = out.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            key = (values["image"], values["prompt"])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                continue  # the run was killed within it
            raise UsageError(
                f"line {number} is not an answer of `ask`; it is left unchanged", subject=str(out)
            ) from error
        if "text" in values and key not in done:
            kept.append(line)
            done.add(key)
    files.write(out, "".join(f"{line}\n" for line in kept).encode())
    return done


def error_line(item: Item, error: PackError) -> Line:
    """Return the line of a picture that was not answered."""
    told = {"kind": error.kind, "message": str(error)}
    return {"image": item.image, "prompt": item.prompt, "error": told}


def _line(item: Item, text: str, finish_reason: str, usage: Mapping[str, int]) -> Line:
    counts = {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}
    asked = {"image": item.image, "prompt": item.prompt}
    return {**asked, "text": text, "finish_reason": finish_reason, **counts}


class ServedAsker:
    """A server that runs here, asked by as many threads as keep its slots busy."""

    def __init__(self, server: "RunState", model: str) -> None:
        from llava_pack.client.discovery import http

        self._model = model
        self._client: httpx.Client = http(server)
        self._client.timeout = _ANSWER_S
        facts = self._client.get("/startupz").json()["models"][model]
        self._at_once = _AHEAD * (facts["slots"] or 1)
        self._closing = threading.Event()

    def answers(self, items: Iterable[Item], sampling: "Sampling") -> Answered:
        """Yield each item with its answer or its error, in the order in which they come."""
        waiting = iter(items)
        running: dict[Future[Line], Item] = {}
        with ThreadPoolExecutor(self._at_once) as pool:
            try:
                while True:
                    for item in waiting:
                        running[pool.submit(self._answer, item, sampling)] = item
                        if len(running) >= self._at_once:
                            break
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield running.pop(future), future.result()
            finally:
                self._closing.set()
                pool.shutdown(cancel_futures=True)

    def _answer(self, item: Item, sampling: "Sampling") -> Line:
        from llava_pack.client.completions import picture_part, refusal, sampling_fields
        from llava_pack.engine.inputs.picture_decoder import read_picture_bytes

        try:
            data = read_picture_bytes(str(item.path))
            content = [
                {"type": "text", "text": part} if isinstance(part, str) else picture_part(part)
                for part in placed(item.prompt, [data])
            ]
            body = {
                "model": self._model,
                "messages": [{"role": "user", "content": content}],
                **sampling_fields(sampling),
            }
            response = self._post(body)
            if response.is_error:
                raise refusal(response)
        except PackError as error:
            return error_line(item, error)
        told = response.json()
        choice = told["choices"][0]
        return _line(item, choice["message"]["content"], choice["finish_reason"], told["usage"])

    def _post(self, body: Line) -> "httpx.Response":
        """Ask, and ask again while the server is busy or starts its engine again."""
        import httpx

        until_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                response = self._client.post("/v1/chat/completions", json=body)
            except httpx.HTTPError as error:
                raise ServeError(f"the server cannot be reached: {reason_of(error)}") from error
            busy = response.status_code == 503 and time.monotonic() < until_s
            if not busy or self._closing.wait(float(response.headers.get("Retry-After", "2"))):
                return response


class LocalAsker:
    """A model in this process, stepped with every slot full."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    def answers(self, items: Iterable[Item], sampling: "Sampling") -> Answered:
        """Yield each item with its answer or its error, in the order in which they come."""
        from llava_pack.engine.port import Delta, Failed

        waiting = iter(items)
        running: dict[str, tuple[Item, list[str]]] = {}
        number = 0
        while True:
            for item in waiting:
                number += 1
                error = self._submit(str(number), item, sampling)
                if error is not None:
                    yield item, error_line(item, error)
                    continue
                running[str(number)] = (item, [])
                if len(running) >= _AHEAD * self._engine.info.slots:
                    break
            if not running:
                return
            for event in self._engine.step():
                item, pieces = running[event.request_id]
                if isinstance(event, Delta):
                    pieces.append(event.text)
                    continue
                del running[event.request_id]
                if isinstance(event, Failed):
                    yield item, error_line(item, event.error())
                else:
                    yield item, _line(item, "".join(pieces), event.reason, asdict(event.usage))

    def _submit(self, request_id: str, item: Item, sampling: "Sampling") -> PackError | None:
        from llava_pack.engine.inputs.picture_decoder import read_picture
        from llava_pack.engine.port import Message, Request

        try:
            picture = read_picture(str(item.path))
        except PackError as error:
            return error
        message = Message("user", placed(item.prompt, [picture]))
        self._engine.submit(Request(request_id=request_id, messages=(message,), sampling=sampling))
        return None


def left(items: Sequence[Item], done: set[tuple[str, str]]) -> list[Item]:
    """Return the items without an answer, each once."""
    asked = set(done)
    fresh: list[Item] = []
    for item in items:
        if item.key not in asked:
            asked.add(item.key)
            fresh.append(item)
    return fresh
