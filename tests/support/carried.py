"""What `carry` prints for the server, typed there as it stands."""

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from llava_pack.cli import main
from tests.support.bundle import BASE_PYTHON


def carry(
    capsys: pytest.CaptureFixture[str], bundle: Path, to: Path, *options: object
) -> list[str]:
    """Carry a bundle and return the lines for the server."""
    capsys.readouterr()
    command = ["carry", str(bundle), "--to", str(to), "--json", *map(str, options)]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    return [str(line) for line in told["install"]]


def type_lines(
    lines: Sequence[str], place: Path, prefix: Path, more: str = ""
) -> subprocess.CompletedProcess[str]:
    """Type lines on a server where a medium is at `place` and a prefix is named.

    Args:
        lines: as they were printed.
        place: of the medium, which they call /path/to.
        prefix: of the installation.
        more: that a person adds to the last line.
    """
    *first, last = (line.replace("/path/to/", f"{place}/") for line in lines)
    script = "\n".join([*first, f"{last} {more} --prefix {shlex.quote(str(prefix))}"])
    path = f"{Path(BASE_PYTHON).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-euc", script],
        env={"PATH": path, "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
