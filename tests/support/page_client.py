"""The page's routes without a browser: what its script sends, and what an attacker would."""

import io
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from PIL import Image

from tests.support.gateway import TOKEN, Gateway

_CONFIG = "window.gradio_config = "


@dataclass(frozen=True)
class PageClient:
    """One browser, with its cookies."""

    http: httpx.Client
    events: Mapping[str, int]
    """The page's events, by name."""
    session: str
    """What the page's script makes up when it is loaded."""

    def run(self, event: str, *data: Any, session: str = "", **more: Any) -> httpx.Response:
        """Send an event that is answered at once."""
        return self._sent("/gradio_api/run/predict", event, data, session, more)

    def join(self, event: str, *data: Any, session: str = "", **more: Any) -> httpx.Response:
        """Send an event that waits in the queue."""
        return self._sent("/gradio_api/queue/join", event, data, session, more)

    def heard(self, session: str = "") -> list[Any]:
        """Return what the queue says about a session, until it has nothing more to say."""
        path = "/gradio_api/queue/data"
        with self.http.stream(
            "GET", path, params={"session_hash": session or self.session}
        ) as answer:
            if answer.status_code != 200:
                return [answer.status_code]
            lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
        return [json.loads(line.removeprefix("data: ")) for line in lines]

    def upload(self, colour: str = "red", name: str = "a.png") -> str:
        """Bring a picture; return its path."""
        sent = {"files": (name, png(colour), "image/png")}
        (path,) = self.http.post("/gradio_api/upload", files=sent).json()
        return str(path)

    def file(self, path: str) -> httpx.Response:
        """Ask for a file."""
        return self.http.get(f"/gradio_api/file={quote(path)}")

    def _sent(
        self, path: str, event: str, data: Any, session: str, more: Mapping[str, Any]
    ) -> httpx.Response:
        body = {
            "data": data,
            "fn_index": self.events[event],
            "session_hash": session or self.session,
            **more,
        }
        text = json.dumps(body)
        return self.http.post(path, content=text, headers={"Content-Type": "application/json"})


@contextmanager
def page_client(served: Gateway, key: str = TOKEN) -> Iterator[PageClient]:
    """Load the page as a browser does, and keep its cookie."""
    with served.client(key) as http:
        yield PageClient(http, page_events(http), secrets.token_hex(8))


def page_events(http: httpx.Client) -> dict[str, int]:
    """Load the page, which gives a client its cookie; return its events' numbers by name."""
    text = http.get("/").text
    config, _ = json.JSONDecoder().raw_decode(text[text.index(_CONFIG) + len(_CONFIG) :])
    return {each["api_name"]: each["id"] for each in config["dependencies"]}


def png(colour: str = "red") -> bytes:
    """Return a small picture."""
    data = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(data, "PNG")
    return data.getvalue()


def file_data(path: str, **more: Any) -> dict[str, Any]:
    """Return a file as the page's script names it."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def said(*content: Any, role: str = "user") -> dict[str, Any]:
    """Return a message as the page's script sends it: texts, and files."""
    parts = [{"type": "text", "text": each} if isinstance(each, str) else each for each in content]
    return {"role": role, "metadata": None, "content": parts, "options": None}


def shown(path: str, **more: Any) -> dict[str, Any]:
    """Return a picture within a message."""
    return {"type": "file", "file": file_data(path, **more), "alt_text": None}
