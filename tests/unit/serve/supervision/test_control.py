"""The control socket: nobody but its owner opens it, and making it touches nothing else."""

import asyncio
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llava_pack.serve.supervision.control import ControlServer


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lp-") as name:  # short: a socket is made in it
        yield Path(name)


def test_what_starts_while_it_is_made_gets_no_umask_of_it(folder: Path) -> None:
    """Engines and the gateway start meanwhile, and die of folders that are shut to themselves."""
    modes = set()

    async def make_folders() -> None:
        for number in range(50):
            place = folder / str(number)
            place.mkdir(mode=0o700)
            modes.add(stat.S_IMODE(place.stat().st_mode))
            await asyncio.sleep(0)

    async def serve() -> None:
        fleet: Any = {}
        made = asyncio.create_task(make_folders())
        async with ControlServer(fleet, fleet, 1.0, lambda: None).serve(folder / "control.sock"):
            await made
            assert stat.S_IMODE((folder / "control.sock").stat().st_mode) == 0o600

    asyncio.run(serve())
    assert modes == {0o700}
