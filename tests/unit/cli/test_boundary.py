"""The boundary of the command line: whatever a command raises ends with its code, shown as text."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from llava_pack.cli import main
from llava_pack.format.errors import SpaceError, UsageError


@pytest.fixture
def ending(monkeypatch):
    """Let any command raise, and return main's exit code."""

    def run(error, *argv):
        def app(**_options):
            raise error

        monkeypatch.setitem(sys.modules, "llava_pack.cli.app", SimpleNamespace(app=app))
        return main(argv)

    return run


def test_a_bug_is_shown_as_text(ending, capsys):
    assert ending(RuntimeError("a name\x1b[2J"), "status") == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "a name\\x1b[2J" in said
    assert "\x1b" not in said


def test_a_bug_is_an_error_in_json_too(ending, capsys):
    assert ending(RuntimeError("a name"), "status", "--json") == 1
    assert json.loads(capsys.readouterr().out)["error"] == "bug"


@pytest.mark.parametrize("error", [RuntimeError("no room"), SpaceError("no room")])
def test_health_that_ends_early_is_unknown(ending, capsys, error):
    assert ending(error, "health") == 3
    assert capsys.readouterr().out.startswith("UNKNOWN - environment: ")
    assert ending(error, "health", "--json") == 3
    assert json.loads(capsys.readouterr().out)["status"] == "UNKNOWN"


@pytest.mark.parametrize("argv", [["recipes"], ["--help"], ["explain", "--list"]])
def test_a_reader_that_has_seen_enough_is_no_failure(argv):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "llava_pack", *argv]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert "error" not in done.stderr.lower().replace("errors", "")


@pytest.mark.parametrize("command", ["verify", "send"])
def test_what_is_no_bundle_is_refused_with_the_folder_that_may_be_meant(command, tmp_path, capsys):
    (tmp_path / "llava-bundle").mkdir()
    (tmp_path / "llava-bundle/SHA256SUMS").touch()
    where = ["ada@gpu01"] if command == "send" else []
    assert main([command, str(tmp_path / "llava"), *where]) == UsageError("").exit_code
    assert f"did you mean {tmp_path / 'llava-bundle'}?" in capsys.readouterr().err
    assert main([command, str(tmp_path), *where]) == UsageError("").exit_code
    assert "the folder that `llava-pack build` wrote" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["recipes"], ["keys", "add"], ["serve"]])
def test_h_is_help(command, capsys):
    assert main([*command, "-h"]) == 0
    short = capsys.readouterr().out
    assert main([*command, "--help"]) == 0
    assert capsys.readouterr().out == short
