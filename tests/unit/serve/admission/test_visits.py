"""What the guard finds out reaches the engine, the quota and the audit log, by every door."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from llava_pack.engine.measures import Timings, Usage
from llava_pack.engine.port import Delta, Event, Finished, Message, Request
from llava_pack.serve.access.audit import AuditLog
from llava_pack.serve.access.key import Key, Quota, digest_of
from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.access.quota import Books, QuotaError
from llava_pack.serve.access.sessions import RENEW_S, Session
from llava_pack.serve.admission.visits import Ledger, Visit, visit_of
from llava_pack.serve.caller import Caller
from llava_pack.serve.gateway.app import GatewaySettings, create_app
from llava_pack.serve.gateway.guard import Guard

_ANN, _BOB = (Key(id=name, name=name, digest=digest_of(name)) for name in ("ann", "bob"))
_POLICY = AccessPolicy(secrets=("t",), start_secret="s", keys=(_ANN, _BOB))
_TIMES = Timings(queued_s=0, first_token_s=0, total_s=0)


class Listening:
    """A model that says one word, and remembers what it was asked."""

    name = "m"
    status = SimpleNamespace(phase="ready")
    info = None
    full = False

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def admit(self) -> None:
        """Take whatever comes."""

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        self.asked.append(request)
        yield Delta(request.request_id, "word", (7,))
        yield Finished(request.request_id, "stop", Usage(30, 1), _TIMES)


_DOORS: dict[str, tuple[str, dict[str, Any]]] = {
    "whole": (
        "/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    ),
    "streamed": (
        "/v1/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True},
    ),
    "llava": ("/worker_generate_stream", {"model": "m", "prompt": "hi"}),
}  # fmt: skip


@pytest.mark.parametrize("door", _DOORS)
def test_a_request_has_the_salt_of_its_key_whatever_the_door(door: str) -> None:
    model = Listening()
    settings = GatewaySettings(policy=_POLICY, web=False)
    app = create_app({"m": cast("Any", model)}, settings)
    path, body = _DOORS[door]
    keyed = _POLICY.llava_path_of(_ANN)

    async def ask() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            for name in ("ann", "bob", "t"):
                headers = {"Authorization": f"Bearer {name}"}
                assert (await http.post(path, json=body, headers=headers)).status_code == 200
            if door == "llava":
                assert (await http.post(f"{keyed}{path}", json=body)).status_code == 200

    asyncio.run(ask())
    salts = [request.salt for request in model.asked]
    derived = [_POLICY.derived.salt(key_id) for key_id in ("ann", "bob", "token", "ann")]
    assert salts == derived[: len(salts)]
    assert len(set(salts)) == 3


class Lines:
    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def write(self, line: str) -> None:
        self.said.append(json.loads(line))

    def close(self) -> None:
        """Nothing is open."""


def _left_after(count: int, key: Key) -> tuple[Visit, Lines]:
    """Ask for an answer, and leave after so many events."""
    lines = Lines()
    visit = Visit(Caller(name="ann"), key=key, ledger=Ledger(AuditLog(lines)))
    request = Request(request_id="r", messages=(Message("user", ("twelve chars",)),))
    visit.asks(request)

    async def ask() -> None:
        async with aclosing(visit.counted("m", Listening().generate(request))) as events:
            for _ in range(count):
                await anext(events)

    asyncio.run(ask())
    visit.close(499 if count == 1 else 200)
    return visit, lines


def test_an_answer_that_was_left_is_charged_by_an_estimate() -> None:
    quota = Quota(tokens_per_day=5)
    visit, lines = _left_after(1, Key(id="ann", name="ann", digest="", quota=quota))
    assert (lines.said[0]["tokens_in"], lines.said[0]["tokens_out"]) == (4, 1)
    with pytest.raises(QuotaError):
        visit.admit()


def test_an_answer_that_came_whole_is_charged_as_the_engine_counted() -> None:
    visit, lines = _left_after(2, _ANN)
    assert (visit.tokens_in, visit.tokens_out) == (30, 1)
    assert (lines.said[0]["model"], lines.said[0]["key"], lines.said[0]["status"]) == (
        "m", "ann", 200,
    )  # fmt: skip


def _asked(path: str, **fields: Any) -> tuple[int, Any, dict[str, Any], float]:
    """Return status, body, the audit's line, and what is left of a key's 60 requests."""
    lines, books = Lines(), Books(lambda: 0.0)
    ann = Key(id="ann", name="ann", digest=digest_of("ann"), quota=Quota(requests_per_min=60))
    policy = AccessPolicy(secrets=("t",), start_secret="s", keys=(ann,))
    settings = GatewaySettings(policy=policy, web=False, books=books, sink=lines)
    app = create_app({"m": cast("Any", Listening())}, settings)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            headers = {"Authorization": "Bearer ann"}
            return await http.post(path, json={"model": "m", **fields}, headers=headers)

    answer = asyncio.run(ask())
    _, left, _ = books.changes(9)["ann"]
    return answer.status_code, answer.json(), lines.said[0], left


@pytest.mark.parametrize(
    ("path", "fields", "prompts", "answers"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "n": 4}, 1, 4),
        ("/v1/completions", {"prompt": ["a", "b", "c"], "n": 2}, 3, 6),
        ("/v1/completions", {"prompt": ["a", "b"]}, 2, 2),
        ("/v1/completions", {"prompt": "a"}, 1, 1),
    ],
)
def test_each_answer_is_one_of_the_quota_and_each_prompt_counts_once(
    path: str, fields: dict[str, Any], prompts: int, answers: int
) -> None:
    status, body, line, left = _asked(path, **fields)
    assert (status, left) == (200, 60 - answers)
    assert (line["tokens_in"], line["tokens_out"]) == (30 * prompts, answers)
    assert body["usage"]["prompt_tokens"] == line["tokens_in"]


def test_more_answers_than_may_be_asked_for_at_once_are_refused_and_not_counted() -> None:
    status, body, _, left = _asked("/v1/completions", prompt=["a"] * 32, n=8)
    assert (status, body["error"]["param"], left) == (400, "prompt", 59)


async def _breaks(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise ValueError("a bug")


async def _stays_silent(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Answer nothing, as where the client has left."""


@pytest.mark.parametrize(("app", "status"), [(_breaks, 500), (_stays_silent, 499)])
def test_a_request_that_never_got_an_answer_is_written_down_too(app: ASGIApp, status: int) -> None:
    lines = Lines()
    guard = Guard(app, _POLICY, Ledger(AuditLog(lines)))
    headers = [(b"host", b"localhost"), (b"x-api-key", b"ann")]
    scope = {"type": "http", "path": "/v1/models", "method": "GET", "headers": headers}

    async def ask() -> None:
        with contextlib.suppress(ValueError):
            await guard(scope, cast("Any", None), cast("Any", None))

    asyncio.run(ask())
    assert [(line["key"], line["status"]) for line in lines.said] == [("ann", status)]


def test_where_no_guard_stands_nobody_is_charged() -> None:
    visit = visit_of({})
    visit.admit()
    visit.close(200)
    assert visit.caller.salt == ""


def test_a_cookie_that_gets_old_is_replaced_by_one_of_now() -> None:
    app = create_app({}, GatewaySettings(policy=_POLICY, web=False))
    derived = _POLICY.derived

    async def ask(age_s: int) -> httpx.Response:
        seen = int(time.time()) - age_s
        cookie = f"{derived.cookie_name}={derived.cookie(Session('ann', seen, seen))}"
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.get("/v1/models", headers={"Cookie": cookie})

    assert "set-cookie" not in asyncio.run(ask(RENEW_S - 5)).headers
    renewed = asyncio.run(ask(RENEW_S + 5))
    assert renewed.status_code == 200
    given = renewed.headers["set-cookie"]
    assert given.startswith(f"{derived.cookie_name}=ann.")
    assert "HttpOnly" in given
    assert "SameSite=strict" in given
