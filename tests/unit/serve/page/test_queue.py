"""Events of the page to which nobody listens, over the real Gradio's queue."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse

from llava_pack.serve.page.queue import UnheardEvents


def _gradio() -> Any:
    return pytest.importorskip("gradio", reason="a laptop's half has no page")


class _Page:
    """A page with one event, which goes on until somebody ends it."""

    def __init__(self) -> None:
        gr = _gradio()
        self.began, self.ended = 0, 0
        with gr.Blocks(analytics_enabled=False) as blocks:
            box = gr.Textbox()
            box.submit(self._talk, box, box, concurrency_limit=8)
        self.blocks: Any = blocks
        self.blocks.queue()

    async def _talk(self, _text: str) -> AsyncGenerator[str, None]:
        self.began += 1
        try:
            while True:
                yield "more"
                await asyncio.sleep(0.01)
        finally:
            self.ended += 1

    @property
    def queue(self) -> Any:
        return self.blocks._queue


@asynccontextmanager
async def _served(
    page: _Page, refused: tuple[str, ...] = (), **limits: Any
) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    _gradio().mount_gradio_app(app, page.blocks, path="/", ssr_mode=False)
    layer = UnheardEvents(_Refusing(app, *refused), lambda: page.queue, **limits)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(layer), base_url="http://localhost"
        ) as http,
    ):
        yield http


def _join(http: httpx.AsyncClient, session: str) -> Any:
    body = {"data": ["hi"], "fn_index": 0, "session_hash": session}
    return http.post("/gradio_api/queue/join", json=body)


async def _until(what: Any) -> None:
    while not what():  # noqa: ASYNC110 - Gradio tells no event
        await asyncio.sleep(0.01)


@pytest.mark.engine
def test_an_event_to_which_nobody_listens_is_ended() -> None:
    async def attacked() -> None:
        page = _Page()
        async with _served(page, patience_s=0.2) as http:
            assert (await _join(http, "nobody")).status_code == 200
            await _until(lambda: page.began == 1)
            await _until(lambda: page.ended == 1)
            assert "nobody" not in page.queue.pending_messages_per_session

    asyncio.run(asyncio.wait_for(attacked(), 60))


@pytest.mark.engine
def test_without_the_layer_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnheardEvents, "_watch", lambda *_: None)

    async def attacked() -> None:
        page = _Page()
        async with _served(page, patience_s=0.0) as http:
            await _join(http, "nobody")
            await _until(lambda: page.began == 1)
            for _ in range(30):
                await asyncio.sleep(0.01)
            assert page.ended == 0
            await page.queue.clean_events(session_hash="nobody")
            await _until(lambda: page.ended == 1)

    asyncio.run(asyncio.wait_for(attacked(), 60))


@pytest.mark.engine
def test_a_caller_has_a_number_of_events_to_which_nobody_listens() -> None:
    async def attacked() -> None:
        page = _Page()
        async with _served(page, patience_s=0.5, most=3) as http:
            statuses = [(await _join(http, f"s{n}")).status_code for n in range(5)]
            assert statuses == [200, 200, 200, 429, 429]
            await _until(lambda: page.ended == 3)
            assert (await _join(http, "later")).status_code == 200
            await _until(lambda: page.ended == 4)

    asyncio.run(asyncio.wait_for(attacked(), 60))


@pytest.mark.engine
def test_an_event_with_a_listener_goes_on() -> None:
    async def asked() -> None:
        page = _Page()
        async with _served(page, patience_s=0.1) as http:
            await _join(http, "somebody")
            # the client holds an answer back until it is whole: this one ends with its task
            listens = asyncio.create_task(http.get("/gradio_api/queue/data?session_hash=somebody"))
            await _until(lambda: page.began == 1)
            for _ in range(30):
                await asyncio.sleep(0.01)
            assert page.ended == 0
            await page.queue.clean_events(session_hash="somebody")
            listens.cancel()
            await asyncio.gather(listens, return_exceptions=True)
            await _until(lambda: page.ended == 1)

    asyncio.run(asyncio.wait_for(asked(), 60))


class _Refusing:
    """The gate, as far as this goes: the stream of a session is refused, or of the last named."""

    def __init__(self, app: Any, *refused: str) -> None:
        self._app, self._refused = app, refused

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        named = scope.get("query_string", b"").decode().rpartition("session_hash=")[2]
        if scope.get("path") == "/gradio_api/queue/data" and named in self._refused:
            await PlainTextResponse("", status_code=404)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


@pytest.mark.engine
@pytest.mark.parametrize("query", ["session_hash=nobody", "session_hash=nobody&session_hash=other"])
def test_who_is_refused_listens_to_nothing(query: str) -> None:
    """An attack: a stream is asked for that is refused, and the events run on for nobody."""

    async def attacked() -> None:
        page = _Page()
        async with _served(page, refused=("nobody", "other"), patience_s=0.2, most=1) as http:
            assert (await _join(http, "nobody")).status_code == 200
            told = await http.get(f"/gradio_api/queue/data?{query}")
            assert told.status_code == 404
            assert (await _join(http, "nobody")).status_code == 429
            await _until(lambda: page.ended == page.began == 1)

    asyncio.run(asyncio.wait_for(attacked(), 60))
