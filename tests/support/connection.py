"""A connection to an engine that is only just starting."""

import asyncio
import subprocess
from pathlib import Path

from llava_pack.engine.process.client import EngineClient
from llava_pack.format.errors import ServeError


async def connected(path: Path, process: subprocess.Popen[bytes]) -> EngineClient:
    """Return a client as soon as the engine listens; pytest's time-out ends what never does."""
    while True:
        try:
            return await EngineClient.connect(path)
        except ServeError:
            assert process.poll() is None, "the engine ended"
            await asyncio.sleep(0.01)
