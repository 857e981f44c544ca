"""Bodies that are read within bounds, replayed, counted and kept."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from llava_pack.serve.page import streams as page_streams
from llava_pack.serve.page.streams import CountedForm, captured, read_body, with_body

_PART = b'--mark\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nx\r\n'


def _pieces(*bodies: bytes, gone: bool = False) -> Receive:
    messages: list[Message] = [
        {"type": "http.request", "body": body, "more_body": number < len(bodies) - 1 or gone}
        for number, body in enumerate(bodies)
    ]
    messages.append({"type": "http.disconnect"})
    left = iter(messages)

    async def receive() -> Message:
        return next(left)

    return receive


def test_a_body_is_read_to_its_end() -> None:
    assert asyncio.run(read_body(_pieces(b"a", b"", b"b"), 2)) == b"ab"


def test_a_body_beyond_its_bound_is_refused() -> None:
    with pytest.raises(HTTPException) as refused:
        asyncio.run(read_body(_pieces(b"a", b"bc"), 2))
    assert refused.value.status_code == 413


def test_a_client_that_leaves_is_noticed() -> None:
    with pytest.raises(ClientDisconnect):
        asyncio.run(read_body(_pieces(b"a", gone=True), 2))


def test_another_body_takes_the_place_and_the_end_is_still_heard() -> None:
    scope, receive = with_body(
        {"headers": [(b"content-length", b"99"), (b"accept", b"*/*"), (b"accept-encoding", b"br")]},
        _pieces(),
        b"{}",
    )

    async def heard() -> list[Message]:
        return [await receive(), await receive()]

    assert [message["type"] for message in asyncio.run(heard())] == [
        "http.request",
        "http.disconnect",
    ]
    assert dict(scope["headers"]) == {
        b"accept": b"*/*",
        b"content-type": b"application/json",
        b"content-length": b"2",
    }


def _counted(body: bytes, step: int, *, max_parts: int, max_bytes: int) -> int:
    pieces = [body[at : at + step] for at in range(0, len(body), step)]
    counted = CountedForm(_pieces(*pieces), b"mark", max_parts=max_parts, max_bytes=max_bytes)

    async def read() -> None:
        for _ in pieces:
            await counted()

    try:
        asyncio.run(read())
    except HTTPException as refused:
        assert counted.refusal
        return refused.status_code
    return 200


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 64, 10_000])
def test_parts_are_counted_however_they_are_cut(step: int) -> None:
    body = _PART * 3 + b"--mark--\r\n"
    assert _counted(body, step, max_parts=3, max_bytes=10_000) == 200
    assert _counted(body, step, max_parts=2, max_bytes=10_000) == 413
    assert _counted(body, step, max_parts=3, max_bytes=len(body)) == 200
    assert _counted(body, step, max_parts=3, max_bytes=len(body) - 1) == 413


def _saying(*bodies: bytes) -> Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]:
    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        assert scope["headers"] == []
        await send({"type": "http.response.start", "status": 201, "headers": [(b"a", b"b")]})
        for body in bodies:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body"})

    return app


def test_an_answer_is_kept_whole_and_sent_on() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def pass_on() -> None:
        scope = {"headers": [(b"accept-encoding", b"br")]}
        answer = await captured(_saying(b"x", b"y"), scope, _pieces())
        await answer.send(send)

    asyncio.run(pass_on())
    assert sent == [
        {"type": "http.response.start", "status": 201, "headers": [(b"a", b"b")]},
        {"type": "http.response.body", "body": b"xy"},
    ]


def test_an_answer_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_streams, "_MAX_ANSWER_BYTES", 3)
    with pytest.raises(ValueError, match="longer than allowed"):
        asyncio.run(captured(_saying(b"xx", b"yy"), {"headers": []}, _pieces()))
