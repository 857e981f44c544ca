"""Bodies before anything reads them: taken in, counted, held within a budget."""

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from llava_pack.serve.admission.bodies import Admission, BodyLimits, body_is_gone
from llava_pack.serve.admission.body_budget import Budget, Holding
from llava_pack.serve.admission.json_bounds import JsonCount, JsonLimits
from llava_pack.serve.caller import Caller
from tests.support.bombs import asked, png

_MIB = 1 << 20


class _App:
    """Reads bodies, and answers once it is let."""

    def __init__(self, *, waits: bool = False) -> None:
        self.bodies: list[bytes] = []
        self.read = asyncio.Semaphore(0)
        self.let = asyncio.Event()
        self.gone = False
        if not waits:
            self.let.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.bodies.append(await request.body())
        self.read.release()
        if self.gone:
            body_is_gone(request)
        await self.let.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


async def _post(
    layer: Admission,
    body: bytes,
    path: str = "/v1/chat/completions",
    who: str = "ann",
    announced: int | None = -1,
    kind: bytes = b"application/json",
    more: tuple[tuple[bytes, bytes], ...] = (),
) -> tuple[int, dict[str, Any]]:
    pieces = [body[at : at + 65536] for at in range(0, max(1, len(body)), 65536)]
    headers = [(b"content-type", kind)]
    if announced is None:
        headers.append((b"transfer-encoding", b"chunked"))
    else:
        headers.append((b"content-length", b"%d" % (len(body) if announced < 0 else announced)))
    headers += more
    scope: Scope = {"type": "http", "path": path, "method": "POST", "headers": headers}
    Caller(name=who).note(scope)
    sent: list[Message] = []

    async def receive() -> Message:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Message) -> None:
        sent.append(message)

    await layer(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_a_body_arrives_whole() -> None:
    app, body = _App(), asked(png(300, 300), text="x" * 200_000)
    assert asyncio.run(_post(Admission(app), body)) == (200, {})
    assert app.bodies == [body]


@pytest.mark.parametrize("announced", [-1, None])
def test_what_is_beyond_a_bound_never_reaches_the_parser(announced: int | None) -> None:
    """An attack: 300,000 messages of two bytes."""
    app, body = _App(), b'{"model":"echo","messages":[' + b"{}," * 300_000 + b"{}]}"
    status, told = asyncio.run(_post(Admission(app), body, announced=announced))
    assert (status, told["error"]["code"], told["error"]["param"]) == (
        413,
        "body_too_large",
        "body",
    )
    assert "more than 20000 values" in told["error"]["message"]
    assert app.bodies == []


def test_without_the_count_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JsonCount, "take", lambda *_: None)
    app, body = _App(), b"[" + b"[]," * 30_000 + b"[]]"
    assert asyncio.run(_post(Admission(app), body))[0] == 200


def test_utf_16_is_no_way_round() -> None:
    body = ("[" + "[]," * 30_000 + "[]]").encode("utf-16")
    status, told = asyncio.run(_post(Admission(_App()), body))
    assert (status, told["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("path", "kind", "size", "status"),
    [
        ("/v1/chat/completions", b"application/json", 5 * _MIB, 200),
        ("/llava/key/worker_generate_stream", b"application/json", 5 * _MIB, 200),
        ("/login", b"application/json", 5 * _MIB, 413),
        ("/anything", b"text/plain", 5 * _MIB, 413),
        ("/page/facts", b"multipart/form-data; boundary=x", 5 * _MIB, 413),
        ("/v1/chat/completions", b"application/json", 65 * _MIB, 413),
    ],
)
def test_each_route_has_its_size(path: str, kind: bytes, size: int, status: int) -> None:
    body = b'"' + b"x" * (size - 2) + b'"'
    assert asyncio.run(_post(Admission(_App()), body, path, kind=kind))[0] == status


def test_bodies_that_are_held_have_a_budget_and_a_caller_has_half_of_it() -> None:
    """64 requests of 60 MB must not be 4 GB."""

    async def flooded() -> None:
        app = _App(waits=True)
        limits = BodyLimits(pictured=JsonLimits(size_bytes=_MIB), held_bytes=2 * _MIB)
        layer, body = Admission(app, limits), b'"' + b"x" * (_MIB // 2) + b'"'
        anns = [asyncio.create_task(_post(layer, body)) for _ in range(5)]
        await app.read.acquire()
        bob = asyncio.create_task(_post(layer, body, who="bob"))
        await app.read.acquire()
        assert len(app.bodies) == 2, "one of ann's, whose half is used up, and one of bob's"
        app.let.set()
        assert {status for status, _ in await asyncio.gather(*anns, bob)} == {200}
        assert len(app.bodies) == 6

    asyncio.run(flooded())


def test_without_the_budget_all_of_them_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    async def granted(budget: Budget, who: str, amount: int) -> Holding:
        return Holding(budget, who, amount)

    monkeypatch.setattr(Budget, "take", granted)

    async def flooded() -> None:
        app = _App(waits=True)
        layer, body = Admission(app, BodyLimits(held_bytes=_MIB)), b'"' + b"x" * _MIB + b'"'
        anns = [asyncio.create_task(_post(layer, body)) for _ in range(5)]
        for _ in anns:
            await app.read.acquire()
        app.let.set()
        assert {status for status, _ in await asyncio.gather(*anns)} == {200}

    asyncio.run(asyncio.wait_for(flooded(), 60))


def test_who_waits_too_long_for_room_is_told_to_come_back() -> None:
    async def flooded() -> None:
        app = _App(waits=True)
        limits = BodyLimits(held_bytes=_MIB, patience_s=0.01)
        layer, body = Admission(app, limits), b'"' + b"x" * (_MIB // 2) + b'"'
        first = asyncio.create_task(_post(layer, body))
        await app.read.acquire()
        status, told = await _post(layer, body)
        assert (status, told["error"]["code"]) == (503, "overloaded")
        app.let.set()
        assert (await first)[0] == 200

    asyncio.run(flooded())


def test_what_is_read_takes_no_room_any_more() -> None:
    async def flooded() -> None:
        app = _App(waits=True)
        app.gone = True
        layer = Admission(app, BodyLimits(held_bytes=_MIB))
        body = b'"' + b"x" * (_MIB // 2) + b'"'
        tasks = [asyncio.create_task(_post(layer, body)) for _ in range(3)]
        for _ in tasks:
            await app.read.acquire()
        app.let.set()
        await asyncio.gather(*tasks)

    asyncio.run(flooded())


def test_a_budget_goes_on_when_who_waits_or_holds_goes_away() -> None:
    async def used() -> None:
        budget = Budget(10, share=6)
        held = await budget.take("ann", 6)
        waits = asyncio.create_task(budget.take("ann", 6))
        small = asyncio.create_task(budget.take("ann", 1))
        await asyncio.sleep(0)
        assert (budget.waiting, budget.held) == (2, 6), "a small one does not overtake its caller's"
        other = await budget.take("bob", 4)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        held.give_back()
        held.give_back()
        (await small).give_back()
        other.give_back()
        assert (budget.waiting, budget.held) == (0, 0)

    asyncio.run(used())


def test_a_length_beside_chunks_is_not_believed() -> None:
    """An attack: `Content-Length: 1` beside chunks, of which as many MiB come as may.

    h11 goes by the chunks, as RFC 9112 has it; the budget has to, too.
    """

    async def attacked() -> None:
        app = _App(waits=True)
        limits = BodyLimits(
            pictured=JsonLimits(size_bytes=_MIB), held_bytes=2 * _MIB, patience_s=0.05
        )
        layer = Admission(app, limits)
        chunks = ((b"transfer-encoding", b"chunked"),)
        first = asyncio.create_task(_post(layer, b'"x"', announced=1, more=chunks))
        await app.read.acquire()
        status, told = await _post(layer, b'"x"', announced=1, more=chunks)
        assert (status, told["error"]["code"]) == (503, "overloaded")
        app.let.set()
        assert (await first)[0] == 200

    asyncio.run(asyncio.wait_for(attacked(), 60))
