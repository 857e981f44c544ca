"""The outer layers, around an application that does what it should not."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from llava_pack.engine.port import ContextLengthError
from llava_pack.format.errors import PackError, ServeError, SpaceError, UsageError
from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.admission.bodies import Admission, BodyLimits
from llava_pack.serve.admission.json_bounds import JsonLimits
from llava_pack.serve.errors import describe
from llava_pack.serve.gateway.app import GatewaySettings, create_app
from llava_pack.serve.gateway.guard import Boundary, Guard

_TOKEN = "the-token"


async def _fails(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise ValueError("secret: /home/someone/model")


async def _works(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"whole"})


def test_what_nobody_caught_is_told_by_its_id_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Boundary(_fails))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.get("/v1/models")

    answer = asyncio.run(ask())
    request_id = answer.headers["x-request-id"]
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert request_id in answer.json()["error"]["message"]
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert f"request {request_id} failed" in caplog.text
    assert "secret: /home/someone/model" in caplog.text


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (SpaceError("no memory"), 503, "out_of_memory"),
        (ServeError("loading"), 503, "not_ready"),
        (UsageError("no picture"), 400, "invalid_value"),
        (ContextLengthError("too long"), 400, "context_length_exceeded"),
        (PackError("secret"), 500, "internal_error"),
    ],
)
def test_each_error_has_its_status_and_code(error: PackError, status: int, code: str) -> None:
    got, body = describe(error, "the-id")
    assert (got, body.code) == (status, code)
    assert (error.message in body.message) == (status != 500)


def _asked(headers: dict[str, str], content: bytes = b"") -> int:
    async def ask() -> int:
        limits = BodyLimits(other=JsonLimits(size_bytes=10))
        layers = Guard(Admission(_works, limits), AccessPolicy(secrets=(_TOKEN,)))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(layers)) as http:
            sent = {"Host": "localhost", "Authorization": f"Bearer {_TOKEN}", **headers}
            return (await http.post("http://x/", headers=sent, content=content)).status_code

    return asyncio.run(ask())


# what is asked, how it is refused, and the check that refuses it with what takes its place
_CHECKS = {
    "token": (
        {"Authorization": "Bearer wrong"}, b"", 401, ("llava_pack.serve.access.policy.hmac.compare_digest",),
    ),
    "host": ({"Host": "evil.example"}, b"", 421, (AccessPolicy, "_ours")),
    "origin": (
        {"Origin": "http://evil.example"}, b"", 403, ("llava_pack.serve.access.policy._from_our_page",),
    ),
    "body": ({}, b"more than ten", 413, (Admission, "__call__")),
}  # fmt: skip


@pytest.mark.parametrize("name", _CHECKS)
def test_each_check_of_the_guard_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    headers, content, refused, check = _CHECKS[name]
    assert _asked(headers, content) == refused
    if name == "body":

        async def unlimited(self: Admission, *connection: object) -> None:
            await self._app(*connection)  # type: ignore[arg-type]

        monkeypatch.setattr(Admission, "__call__", unlimited)
    else:
        monkeypatch.setattr(*check, lambda *_: True)
    assert _asked(headers, content) == 200


def _routes(part: Any) -> Iterator[Any]:
    """Yield every route, also of routers that were included."""
    router = getattr(part, "original_router", part)
    if not hasattr(router, "routes"):
        yield part
        return
    for each in router.routes:
        yield from _routes(each)


def test_every_route_of_the_api_asks_for_the_token() -> None:
    policy = AccessPolicy(secrets=(_TOKEN,))
    app = create_app({}, GatewaySettings(policy=policy, web=False))
    asked = {
        (method, route.path.replace("{", "").replace("}", ""))
        for route in _routes(app)
        for method in route.methods
    }
    assert {("POST", "/v1/chat/completions"), ("POST", "/observe"), ("GET", "/health")} <= asked

    async def ask() -> set[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return {(await http.request(method, path)).status_code for method, path in asked}

    assert asyncio.run(ask()) == {401}


def test_a_websocket_is_closed_as_not_allowed() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    guard = Guard(_works, AccessPolicy(secrets=None))
    asyncio.run(guard({"type": "websocket"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
