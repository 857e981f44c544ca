"""A key that no list of processes shows: of the engine's own process and of all that it starts."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llava_pack.profiles import launcher
from llava_pack.profiles.launcher import KEY_VARIABLE

ROOT = Path(__file__).parents[3]
KEY = "the-key-of-this-start"


@contextmanager
def launched(options: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """Run the module of an engine by the launcher, and have what it told."""
    own = Path(launcher.__file__)
    words = [str(own), options, "-m", "tests.support.engine_module", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), KEY_VARIABLE: KEY}
    with subprocess.Popen(
        [sys.executable, "-X", "faulthandler", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        assert process.stderr is not None
        yield json.loads(process.stderr.readline())
        process.communicate("\n", timeout=30)
    assert process.returncode == 0


def test_the_module_is_given_the_key_and_nobody_else_sees_it() -> None:
    with launched("--api-key,--admin-api-key", "serve", "--port", "1") as said:
        assert said["argv"] == [
            *("serve", "--port", "1"),
            *("--api-key", KEY, "--admin-api-key", KEY),
        ]
        tree = (said["pid"], said["child"]["pid"])
        for pid in tree:
            assert KEY.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert KEY.encode() not in Path(f"/proc/{tree[1]}/environ").read_bytes()
        assert KEY not in json.dumps([said["environment"], said["child"]["environment"]])


def test_what_it_spawns_runs_neither_the_launcher_nor_the_module_again() -> None:
    with launched("--api-key") as said:
        assert said["child"]["main"] == "__mp_main__"


@pytest.mark.parametrize("options", ["", ","])
def test_an_engine_that_wants_no_key_is_given_none(options: str) -> None:
    with launched(options, "serve") as said:
        assert said["argv"] == ["serve"]


def test_it_is_run_with_nothing_but_the_standard_library() -> None:
    words = [sys.executable, "-I", "-S", launcher.__file__, "", "-m", "this"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Tim Peters" in done.stderr


def test_anything_else_than_a_module_is_refused() -> None:
    words = [sys.executable, "-I", launcher.__file__, "", "-c", "print(1)"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "expected -m and a module" in done.stderr
