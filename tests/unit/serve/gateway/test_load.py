"""Hundreds of picture requests at once, of one key and of two, through the whole gateway."""

import asyncio
import base64
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from llava_pack.engine.measures import Timings, Usage
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE
from llava_pack.engine.port import Delta, Event, Finished, Request
from llava_pack.serve.access.key import Key, digest_of
from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.admission.bodies import BodyLimits
from llava_pack.serve.admission.body_budget import Budget
from llava_pack.serve.counters import Tally
from llava_pack.serve.gateway.app import GatewaySettings, create_app
from tests.support.bombs import png
from tests.support.waiting import until_async

_KEYS = tuple(Key(id=name, name=name, digest=digest_of(name)) for name in ("ann", "bob"))
_SLOTS, _QUEUE, _FLOOD = 2, 20, 300
_DONE = Timings(queued_s=0, first_token_s=0, total_s=0)


@dataclass(eq=False)
class _Held:
    """A model whose answers wait until they are let through, one by one or all."""

    name: str = "m"
    status: Any = field(default_factory=lambda: SimpleNamespace(phase="ready"))
    info: Any = field(
        default_factory=lambda: SimpleNamespace(slots=_SLOTS, picture_mode=DEFAULT_PICTURE_MODE)
    )
    tally: Tally = field(default_factory=Tally)
    full: bool = False
    let: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    salts: list[str] = field(default_factory=list)

    def admit(self) -> None:
        """Take whatever comes."""

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        self.salts.append(request.salt)
        await self.let.acquire()
        yield Delta(request.request_id, "word", (7,))
        yield Finished(request.request_id, "stop", Usage(3, 1), _DONE)


@asynccontextmanager
async def _served(model: _Held) -> AsyncIterator[httpx.AsyncClient]:
    """Serve it with room for eight bodies, and so four of a key."""
    settings = GatewaySettings(
        policy=AccessPolicy(secrets=("t",), start_secret="s", keys=_KEYS),
        web=False,
        queue=_QUEUE,
        bodies=BodyLimits(held_bytes=8 * len(_body("x"))),
    )
    app = create_app({"m": cast("Any", model)}, settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http,
    ):
        yield http


def _body(text: str) -> bytes:
    picture = base64.b64encode(png(8, 8) + random.Random(0).randbytes(80_000)).decode()
    return (
        '{"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url":'
        f' {{"url": "data:image/png;base64,{picture}"}}}}, {{"type": "text", "text": "{text}"}}]}}]}}'
    ).encode()


def _post(http: httpx.AsyncClient, who: str) -> asyncio.Task[httpx.Response]:
    headers = {"Authorization": f"Bearer {who}", "Content-Type": "application/json"}
    return asyncio.create_task(
        http.post("/v1/chat/completions", content=_body(who), headers=headers)
    )


def _flood(*, bob: bool) -> tuple[Counter[int], list[httpx.Response], _Held]:
    """Ask three hundred times as ann, and then as bob; return ann's answers by status, and bob's."""

    async def flooded() -> tuple[Counter[int], list[httpx.Response], _Held]:
        model = _Held()
        async with _served(model) as http:
            anns = [_post(http, "ann") for _ in range(_FLOOD)]
            refused = _FLOOD - _SLOTS - _QUEUE
            await until_async(lambda: sum(task.done() for task in anns) >= refused)
            bobs = [_post(http, "bob") for _ in range(3 if bob else 0)]
            if bob:
                await until_async(lambda: len(model.salts) >= _SLOTS + 2)
                for _ in range(12):  # as many as ann had before, and bob's turn is among them
                    model.let.release()
                await asyncio.wait(bobs, timeout=30)
                assert sum(task.done() for task in anns) < _FLOOD
            for _ in range(_FLOOD):
                model.let.release()
            answers = await asyncio.gather(*anns)
            theirs = await asyncio.gather(*bobs)
        return Counter(one.status_code for one in answers), list(theirs), model

    return asyncio.run(flooded())


def test_pictures_that_wait_for_room_are_of_the_queue_too() -> None:
    """An attack: four hundred went in, and none was refused."""
    statuses, _, model = _flood(bob=False)
    assert statuses == {200: _SLOTS + _QUEUE, 503: _FLOOD - _SLOTS - _QUEUE}
    assert model.tally.refused == statuses[503]


def test_another_key_has_its_turns_meanwhile() -> None:
    _, bobs, _ = _flood(bob=True)
    assert [one.status_code for one in bobs] == [200] * 3


def test_without_the_count_none_would_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Budget, "waiting_by", property(lambda _self: Counter[str]()))

    async def flooded() -> int:
        model = _Held()
        async with _served(model) as http:
            anns = [_post(http, "ann") for _ in range(_FLOOD)]
            await until_async(lambda: len(model.salts) >= _SLOTS)
            done = sum(task.done() for task in anns)
            for task in anns:
                task.cancel()
            await asyncio.gather(*anns, return_exceptions=True)
        return done

    assert asyncio.run(flooded()) == 0


def test_who_comes_back_when_told_is_taken() -> None:
    async def told() -> None:
        model = _Held()
        async with _served(model) as http:
            anns = [_post(http, "ann") for _ in range(_SLOTS + _QUEUE)]
            await until_async(lambda: len(model.salts) >= _SLOTS)
            late = [await _post(http, "ann") for _ in range(3)]
            assert {one.status_code for one in late} == {503}
            waits = [int(one.headers["retry-after"]) for one in late]
            assert waits == sorted(waits)
            assert 1 <= waits[0] < waits[-1] <= 60, "not all of them at once"
            for _ in range(3):
                model.let.release()
            await until_async(lambda: sum(task.done() for task in anns) >= 3)
            again = [_post(http, "ann") for _ in range(3)]
            for _ in range(_FLOOD):
                model.let.release()
            assert {(await task).status_code for task in (*anns, *again)} == {200}

    asyncio.run(told())
