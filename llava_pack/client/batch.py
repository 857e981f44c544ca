"""Many pictures, one question each: what is asked, what was already answered, and who answers.

A line of the output is one picture's; it is written when its answer is there, in the order in
which answers come. Running again asks only what has no answer yet.
"""

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llava_pack.client.discovery import QUICK_S
from llava_pack.client.items import Item
from llava_pack.client.turns import placed
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE, PictureMode
from llava_pack.engine.picture_warnings import picture_warnings
from llava_pack.format import files
from llava_pack.format.errors import PackError, UsageError

if TYPE_CHECKING:
    import httpx

    from llava_pack.client.api_server import ApiServer
    from llava_pack.engine.port import Engine
    from llava_pack.engine.sampling import Sampling

_AHEAD = 2
"""Requests for each slot: one is answered, the next is on its way."""
_PATIENCE_S = 600.0
_ANSWER_S = 3600.0


Line = dict[str, Any]
Answered = Iterator[tuple[Item, Line]]


class Asker(Protocol):
    """Answers items, several at a time."""

    def answers(self, items: Iterable[Item], sampling: "Sampling") -> Answered:
        """Yield each item with its answer or its error, in the order in which they come."""


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
    if error.hint:
        told["hint"] = error.hint
    return {"image": item.image, "prompt": item.prompt, "error": told}


def _line(
    item: Item,
    text: str,
    finish_reason: str,
    usage: Mapping[str, int],
    warnings: Sequence[str] = (),
) -> Line:
    counts = {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}
    asked = {"image": item.image, "prompt": item.prompt}
    line = {**asked, "text": text, "finish_reason": finish_reason, **counts}
    return {**line, "warnings": list(warnings)} if warnings else line


def _bytes_of(item: Item, mode: PictureMode, *, shrink: bool) -> bytes:
    """Return a picture's file, scaled down where that is asked for and needed.

    Raises:
        UsageError: it cannot be read.
    """
    if shrink:
        from llava_pack.client.shrinking import read_shrunk

        return read_shrunk(str(item.path), mode)
    from llava_pack.engine.inputs.picture_files import read_picture_bytes

    return read_picture_bytes(str(item.path))


class ServedAsker:
    """A server, asked by as many threads as keep its slots busy."""

    def __init__(self, server: "ApiServer", *, shrink: bool = False) -> None:
        self._server, self._shrink = server, shrink
        self._client: httpx.Client = server.client()
        self._client.timeout = _ANSWER_S
        self._at_once = _AHEAD * self._slots()
        self._closing = threading.Event()

    def _slots(self) -> int:
        """Return how many requests the model answers concurrently; 1 where nobody says."""
        import httpx

        try:
            facts = self._client.get("/startupz", timeout=QUICK_S).json()["models"]
            return int(facts[self._server.model]["slots"] or 1)
        except httpx.HTTPError as error:
            raise self._server.unreachable(error) from error
        except (ValueError, KeyError, TypeError):  # a proxy that has no such route
            return 1

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

        try:
            data = self._bytes_to_send(item)
            content = [
                {"type": "text", "text": part} if isinstance(part, str) else picture_part(part)
                for part in placed(item.prompt, [data])
            ]
            body = {
                "model": self._server.model,
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
        text, warnings = choice["message"]["content"], told.get("warnings", ())
        return _line(item, text, choice["finish_reason"], told["usage"], warnings)

    def _bytes_to_send(self, item: Item) -> bytes:
        """Return a picture's file; the server decodes it.

        Raises:
            UsageError: it cannot be read, is too large, or is not a picture by its first bytes.
        """
        if self._shrink:
            return _bytes_of(item, DEFAULT_PICTURE_MODE, shrink=True)
        from llava_pack.engine.inputs.picture_files import read_picture_to_send

        return read_picture_to_send(str(item.path))

    def _post(self, body: Line) -> "httpx.Response":
        """Ask, and ask again while the server is busy or starts its engine again."""
        import httpx

        until_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                response = self._client.post("/v1/chat/completions", json=body)
            except httpx.HTTPError as error:
                raise self._server.unreachable(error) from error
            busy = response.status_code == 503 and time.monotonic() < until_s
            if not busy or self._closing.wait(float(response.headers.get("Retry-After", "2"))):
                return response


class LocalAsker:
    """A model in this process, stepped with every slot full."""

    def __init__(self, engine: "Engine", *, shrink: bool = False) -> None:
        self._engine, self._shrink = engine, shrink
        self._warnings: dict[str, tuple[str, ...]] = {}

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
                seen = self._warnings.pop(event.request_id, ())
                if isinstance(event, Failed):
                    yield item, error_line(item, event.error())
                else:
                    usage = asdict(event.usage)
                    yield item, _line(item, "".join(pieces), event.reason, usage, seen)

    def _submit(self, request_id: str, item: Item, sampling: "Sampling") -> PackError | None:
        from llava_pack.engine.inputs.picture_decoder import decode_picture
        from llava_pack.engine.port import Message, Request

        mode = self._engine.info.picture_mode
        try:
            data = _bytes_of(item, mode, shrink=self._shrink)
            picture = decode_picture(data, mode=mode)
        except PackError as error:
            return type(error)(error.message, subject=str(item.path), hint=error.hint)
        self._warnings[request_id] = picture_warnings((picture,))
        message = Message("user", placed(item.prompt, [picture]))
        self._engine.submit(Request(request_id=request_id, messages=(message,), sampling=sampling))
        return None
