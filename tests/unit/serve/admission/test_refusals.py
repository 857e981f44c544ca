"""What is refused is counted; the log has a line a minute, and no path that somebody made up."""

import asyncio
import logging

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.admission.refusals import Refusals
from llava_pack.serve.gateway.guard import Boundary, Guard


async def _missing(_scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 400, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _asked(refusals: Refusals, paths: list[str], token: str) -> None:
    async def ask() -> None:
        layers = Boundary(Guard(_missing, AccessPolicy(secrets=("the-token",))), refusals)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(layers)) as http:
            for path in paths:
                headers = {"Host": "localhost", "Authorization": f"Bearer {token}"}
                await http.get(f"http://x{path}", headers=headers)

    asyncio.run(ask())


def test_strangers_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """An attack: 32 MiB of log were gone within a minute."""
    caplog.set_level(logging.INFO)
    now_s = [0.0]
    refusals = Refusals(clock=lambda: now_s[0])
    _asked(refusals, [f"/v1/the-token/{n}" for n in range(50)], "wrong")
    assert refusals.statuses == {401: 50}
    assert "refused" not in caplog.text
    now_s[0] = 61.0
    _asked(refusals, ["/v1/the-token/50", "/v1/the-token/51"], "wrong")
    assert "refused in the last 61 s: 51 x 401" in caplog.text
    lines = [r for r in caplog.records if r.name.startswith("llava_pack")]
    assert len(lines) == 1


def test_without_the_count_each_would_have_its_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(Refusals, "answered", lambda *_: False)
    _asked(Refusals(), [f"/v1/{n}" for n in range(50)], "wrong")
    assert len([r for r in caplog.records if r.name.startswith("llava_pack")]) == 50


def test_a_failure_of_who_is_known_has_its_line_without_the_path(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    refusals = Refusals()
    _asked(refusals, ["/v1/the-token/x", "/the-token/x"], "the-token")
    assert "GET /v1/{rest} is 400" in caplog.text
    assert refusals.statuses == {400: 1, 404: 1}
    assert "the-token" not in "".join(r.getMessage() for r in caplog.records if "llava" in r.name)
