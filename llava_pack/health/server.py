"""Probes of the running server: its own probes, the page, and known answers through the API.

Proxy variables never matter here: the server is on this machine.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx

from llava_pack.client.completions import chunks, refusal
from llava_pack.client.discovery import connection
from llava_pack.engine.known.questions import MAX_TOKENS
from llava_pack.format import records
from llava_pack.format.errors import PackError, ServeError, reason_of
from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.health.facts import AnswerFacts, FenceFacts, ModelFacts, PageFacts, ServerFacts
from llava_pack.health.known_answers import grade
from llava_pack.health.throughput import Counted, counted

_QUICK_S = 5.0
_ANSWER_S = 120.0
_SETTLED_S = 1.0
_LOOK_EVERY_S = 0.05
_OWN = "llava-pack"
_PAGE_SIGN = "page/app.js"


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server is and how to be let in."""

    url: str
    socket: str | None
    token: str
    pid: int


class ServerProbe:
    """Asks one server; use it as a context manager."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._http = connection(
            address.url, token=address.token, socket=address.socket, timeout_s=_QUICK_S
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def facts(self) -> ServerFacts:
        """Return what the server's own probes say."""
        pid, url = self._address.pid, self._address.url
        try:
            live, ready = self._http.get("/livez"), self._http.get("/readyz")
            started = self._http.get("/startupz").json()
            startup = started["models"]
            vitals, stalled = live.json()["models"], live.json()["stalled"]
            return ServerFacts(
                url=url,
                pid=pid,
                live=live.status_code == 200,
                ready=ready.status_code == 200,
                has_page=bool(ready.json().get("page")),
                fence=_fence(started),
                models={
                    name: _model(startup[name], vitals[name], stalled=name in stalled)
                    for name in startup
                },
            )
        except httpx.HTTPError as error:
            return ServerFacts(url=url, pid=pid, error=reason_of(error))
        except (ValueError, KeyError, TypeError, AttributeError):
            return ServerFacts(url=url, pid=pid, error="a program other than llava-pack responds")

    def page(self) -> PageFacts:
        """Return what `/` answers to a browser that has logged in."""
        try:
            answer = self._http.get("/", headers={"Accept": "text/html"})
        except httpx.HTTPError as error:
            return PageFacts(status=0, is_page=False, error=reason_of(error))
        return PageFacts(status=answer.status_code, is_page=_PAGE_SIGN in answer.text)

    def answer(self, model: str, known: KnownAnswer, device: str | None) -> AnswerFacts:
        """Return how a model answers a known question, streamed as people get it."""
        began_s = time.monotonic()
        first_s = began_s
        pieces: list[str] = []
        tokens = 0
        try:
            for chunk in chunks(self._http, _question(model, known), httpx.Timeout(_ANSWER_S)):
                if chunk.text and not pieces:
                    first_s = time.monotonic()
                pieces += [chunk.text] if chunk.text else []
                tokens = int(chunk.completion_tokens or tokens)
        except (httpx.HTTPError, PackError) as error:
            return AnswerFacts(model=model, grade=grade(known, ""), error=reason_of(error))
        except (AttributeError, KeyError, TypeError, ValueError, IndexError):
            return AnswerFacts(model=model, grade=grade(known, ""), error="not a stream of events")
        decode_s = time.monotonic() - first_s
        return AnswerFacts(
            model=model,
            grade=grade(known, "".join(pieces)),
            device=device,
            ttft_s=first_s - began_s,
            tokens_per_s=(tokens - 1) / decode_s if tokens > 1 and decode_s > 0 else None,
        )

    def observe(self, model: str, known: KnownAnswer) -> Reference:
        """Return an answer with its odds and its trace.

        Raises:
            ServeError: there is none.
        """
        picture = f"data:image/png;base64,{known.picture_png}" if known.picture_png else None
        body = {"model": model, "name": known.name, "prompt": known.prompt, "picture": picture}
        value = self._asked("/observe", {**body, "max_tokens": MAX_TOKENS})
        defects = records.Defects()
        found = records.decode(Reference, value, defects)
        if found is None:
            raise ServeError(f"not an observation: {'; '.join(defects[:3])}")
        return found

    def count(self, model: str, known: KnownAnswer) -> int:
        """Return the tokens of a question, those of its picture included.

        Raises:
            ServeError: they cannot be counted.
        """
        asked = {**_question(model, known), "stream": False, "max_tokens": 1}
        del asked["stream_options"]  # an engine of others may tell no tokens but with an answer
        return int(self._asked("/v1/chat/completions", asked)["usage"]["prompt_tokens"])

    def counted(self, model: str, since: Counted | None = None) -> Counted | None:
        """Return what the server has counted of a model, None where it does not tell.

        Args:
            model: its name.
            since: what was counted before a question that has been answered: the server looks at
                its engine twice a second, and is waited for.
        """
        until_s = time.monotonic() + _SETTLED_S
        while True:
            try:
                found = counted(self._http.get("/metrics").text, model)
            except httpx.HTTPError:
                return None
            if found is None or since is None or since.busy or found.settled(since):
                return found
            if time.monotonic() > until_s:
                return found
            time.sleep(_LOOK_EVERY_S)

    def _asked(self, path: str, body: Mapping[str, Any]) -> Any:
        try:
            answer = self._http.post(path, json=body, timeout=_ANSWER_S)
        except httpx.HTTPError as error:
            raise ServeError(reason_of(error)) from error
        if answer.status_code != 200:
            raise ServeError(refusal(answer).message)
        return answer.json()


def _question(model: str, known: KnownAnswer) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": known.prompt}]
    if known.picture_png:
        picture = {"url": f"data:image/png;base64,{known.picture_png}"}
        content.insert(0, {"type": "image_url", "image_url": picture})
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _model(startup: Mapping[str, Any], vitals: Mapping[str, Any], *, stalled: bool) -> ModelFacts:
    return ModelFacts(
        phase=startup["phase"],
        detail=startup["detail"],
        device=startup["device"],
        running=vitals["running"],
        waiting=vitals["waiting"],
        stalled_s=vitals["stalled_s"],
        stalled=stalled,
        precision=startup["precision"] or "",
        slots=startup["slots"] or 1,
        context_tokens=startup["context_tokens"] or 0,
        fence=_fence(startup),
        engine=_engine(startup.get("engine")),
    )


def _engine(told: object) -> str:
    """Return which engine of others it is; empty where none, or where an earlier version tells."""
    return told if isinstance(told, str) and told != _OWN else ""


def _fence(told: Mapping[str, Any]) -> FenceFacts | None:
    """Return the fence that is told of, None where none is: earlier releases know none."""
    fence = told.get("fence")
    if not fence:
        return None
    return FenceFacts(said=str(fence["said"]), whole=bool(fence["whole"]))
