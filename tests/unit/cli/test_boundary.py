"""The boundary of the command line: whatever a command raises ends with its code, shown as text."""

import json
import sys
from types import SimpleNamespace

import pytest

from llava_pack.cli import main
from llava_pack.format.errors import SpaceError


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
