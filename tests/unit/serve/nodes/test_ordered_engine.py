"""A follower's part of an engine, as a process."""

import asyncio
import logging
import os
import sys
from pathlib import Path

import pytest

from llava_pack.format.errors import ServeError
from llava_pack.serve.engines.client import EngineAddress
from llava_pack.serve.subprocesses import EngineCommand
from llava_pack.serve.supervision.ordered_engine import PartLife

KEY = "the-key-of-this-start"


def test_a_key_that_its_engine_writes_is_in_no_log_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = f"import sys; sys.exit('api_key={KEY}')"
    command = EngineCommand(
        name="llava",
        argv=(sys.executable, "-c", code),
        address=EngineAddress(socket=tmp_path / "s", key=KEY),
        environment=os.environ,
    )
    with caplog.at_level(logging.INFO), pytest.raises(ServeError) as ended:
        asyncio.run(PartLife(command).run())
    assert "llava: api_key=***" in caplog.text
    assert "api_key=***" in ended.value.hint
    assert KEY not in caplog.text + str(ended.value) + ended.value.hint
