"""What an engine ended with, from its exit code and its last words."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from llava_pack.format.errors import CheckpointError, PackError, SpaceError
from llava_pack.serve.engines.client import EngineAddress
from llava_pack.serve.subprocesses import EngineCommand, own_error
from llava_pack.serve.supervision.engine import SupervisedEngine


@pytest.mark.parametrize(("code", "kind"), [(13, CheckpointError), (7, SpaceError)])
def test_the_exit_code_is_the_class_and_the_last_error_the_message(
    code: int, kind: type[PackError]
) -> None:
    lines = ["INFO x: hello", "ERROR a.b: first", "ERROR a.b: no such folder: /m", "second line"]
    error = own_error(code, lines)
    assert type(error) is kind
    assert str(error) == "no such folder: /m\nsecond line"


@pytest.mark.parametrize(
    ("code", "lines"),
    [(None, ["ERROR a: b"]), (-9, ["ERROR a: b"]), (1, ["ERROR a: b"]), (13, ["killed"]), (13, [])],
)
def test_anything_else_is_no_error_of_ours(code: int | None, lines: list[str]) -> None:
    assert own_error(code, lines) is None


def test_an_engine_that_ends_before_anybody_listens_ends_the_run_with_its_own_error(
    tmp_path: Path,
) -> None:
    program = "import sys; sys.stderr.write('ERROR a.b: no such folder\\n'); sys.exit(13)"
    command = EngineCommand(
        name="m",
        argv=(sys.executable, "-c", program),
        address=EngineAddress(socket=tmp_path / "s"),
        environment=dict(os.environ),
    )
    with pytest.raises(CheckpointError, match="no such folder"):
        asyncio.run(SupervisedEngine(command).run())
