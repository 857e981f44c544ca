import io
import sys

import pytest

from llava_pack.cli import console
from llava_pack.cli.laptop import need_laptop
from llava_pack.format.errors import RecipeError, UsageError


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_an_error_on_a_terminal_is_coloured_and_its_text_is_not_trusted(monkeypatch):
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setenv("TERM", "xterm")
    console.failure(RecipeError("bad \x1b[2J name\nnext line", subject="x", hint="llava-pack"))
    text = out.getvalue()
    assert text.startswith("\x1b[31;1merror\x1b[0m: x: bad \\x1b[2J name\nnext line\n")
    assert "\x1b[36mhint\x1b[0m: llava-pack" in text


def test_no_color_is_honoured(monkeypatch):
    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setenv("NO_COLOR", "1")
    console.failure(RecipeError("bad"))
    assert out.getvalue() == "error: bad\n"


def test_the_packing_half_is_refused_where_there_is_no_resolver(monkeypatch):
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setattr("llava_pack.cli.laptop.find_spec", lambda _: None)
    with pytest.raises(UsageError, match="connected side"):
        need_laptop("build")


def test_and_allowed_where_there_is_one():
    need_laptop("build")
