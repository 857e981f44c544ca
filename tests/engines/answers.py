"""What an engine answers behind the gateway: known answers, the page, many at once, cancels."""

import asyncio
import json
import random
from typing import Any

import httpx
import pytest

from tests.engines.installed import KNOWN, MODEL, Served, is_known, question, text_of
from tests.support.waiting import until

_MANY, _SLOTS = 64, 4


@pytest.mark.parametrize("number", range(len(KNOWN)))
def test_it_gives_the_known_answers_whole_and_as_a_stream(served: Served, number: int) -> None:
    body = served.ask(number)
    assert is_known(text_of(body), number)
    assert body["usage"]["prompt_tokens"] == 69
    with served.client() as http:
        asked = question(number, stream=True)
        with http.stream("POST", "/v1/chat/completions", json=asked) as stream:
            pieces = [_text(line) for line in stream.iter_lines()]
    assert "".join(pieces) == text_of(body)
    assert len([piece for piece in pieces if piece]) > 2


def test_health_finds_it_well_but_for_the_fence(served: Served) -> None:
    told = served.installed.told("health", most=1)
    wrong = {(one["layer"], one["level"]) for one in told["findings"]} - {("fence", "warn")}
    assert {level for _, level in wrong} == {"ok"}, told


def test_status_tells_of_it(served: Served) -> None:
    (server,) = served.installed.told("status")["servers"]
    assert MODEL in server["models"]


def test_many_at_once_of_whom_half_go_away(served: Served) -> None:
    """All who stay are answered, and those who went hold no slot."""
    answers = asyncio.run(_many(served, random.Random(16)))
    kept = [(number, text) for number, text in answers if text is not None]
    assert len(kept) == _MANY // 2
    assert all(is_known(text, number) for number, text in kept)
    with served.client() as http:
        until(lambda: _running(http) == 0, within_s=60)


async def _many(served: Served, dice: random.Random) -> list[tuple[int, str | None]]:
    headers = {"Authorization": f"Bearer {served.token}"}
    limits = httpx.Limits(max_connections=None)
    leaves = [number % 2 == 0 for number in range(_MANY)]
    dice.shuffle(leaves)
    async with httpx.AsyncClient(
        base_url=served.url, headers=headers, trust_env=False, timeout=300, limits=limits
    ) as http:
        asked = [_one(http, number, leaves=leaves[number]) for number in range(_MANY)]
        return list(await asyncio.gather(*asked))


async def _one(http: httpx.AsyncClient, number: int, *, leaves: bool) -> tuple[int, str | None]:
    more = {"max_tokens": 900, "min_tokens": 800} if leaves else {}
    asked = question(number, stream=True, **more)
    text = ""
    async with http.stream("POST", "/v1/chat/completions", json=asked) as stream:
        assert stream.status_code == 200, await stream.aread()
        async for line in stream.aiter_lines():
            text += _text(line)
            if leaves and text:
                return number, None
    return number, text


def _running(http: httpx.Client) -> int:
    return int(http.get("/livez").json()["models"][MODEL].get("running", 0))


def _text(line: str) -> str:
    if not line.startswith("data: {"):
        return ""
    chunk: dict[str, Any] = json.loads(line[6:])
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
