"""An engine under supervision: how long is waited before it is started again."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from llava_pack.format.errors import ServeError
from llava_pack.serve.engines.client import EngineAddress
from llava_pack.serve.subprocesses import EngineCommand
from llava_pack.serve.supervision import engine as engines
from llava_pack.serve.supervision.engine import SupervisedEngine


class ShortLife:
    """Becomes ready and ends at once, every time."""

    def __init__(self, *arguments: Any) -> None:
        self._observer: Any = arguments[-1]

    async def run(self) -> None:
        self._observer.ready(None)
        raise ServeError("it ended")


async def _waited_out(waiting: Awaitable[Any], _timeout_s: float) -> None:
    asyncio.ensure_future(waiting).cancel()
    raise TimeoutError


def test_an_engine_that_keeps_ending_is_started_again_later_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "EngineLife", ShortLife)
    monkeypatch.setattr(asyncio, "wait_for", _waited_out)
    said: list[str] = []

    async def run() -> None:
        def hear(_name: str, status: Any) -> None:
            if status.phase == "restarting":
                said.append(status.detail)
            if len(said) == 7:
                engine.refuse()

        command = EngineCommand(
            name="m", argv=(), address=EngineAddress(socket=Path("s")), environment={}
        )
        engine = SupervisedEngine(command, hear)
        await engine.run()

    asyncio.run(run())
    waits = ("0.5", "1", "2", "5", "10", "30", "30")
    assert said == [f"it ended; next attempt in {wait} s" for wait in waits]
