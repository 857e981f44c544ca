import io
import os
import sys

import pytest

from llava_pack.cli import console
from llava_pack.cli.laptop.side import need_laptop
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
    monkeypatch.setattr("llava_pack.cli.laptop.side.find_spec", lambda _: None)
    with pytest.raises(UsageError, match="connected side"):
        need_laptop("build")


def test_and_allowed_where_there_is_one():
    need_laptop("build")


class Clock:
    """A clock that is set by hand."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def fetched(out, clock):
    """A quarter of 4 MB within two seconds, and the rest within six more."""
    progress = console.ConsoleProgress(out, clock)
    progress.start("fetch x", 4_000_000)
    clock.now_s += 2
    progress.advance(1_000_000)
    clock.now_s += 6
    progress.advance(3_000_000)
    progress.done()
    return out.getvalue()


def test_progress_on_a_terminal_is_one_line_with_rate_and_time_left(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    drawn = fetched(Terminal(), Clock()).split("\r\x1b[K")
    assert drawn[2] == "fetch x: 1.0 MB of 4.0 MB (25 %), 500.0 kB/s, 0:06 left"
    assert drawn[-1] == "fetch x: 8.0 s  4.0 MB at 500.0 kB/s\n"


def test_progress_elsewhere_is_a_line_now_and_then():
    assert fetched(io.StringIO(), Clock()).splitlines() == [
        "fetch x (4.0 MB) …",
        "fetch x: 4.0 MB of 4.0 MB (100 %), 500.0 kB/s, 0:00 left",
        "fetch x: 8.0 s  4.0 MB at 500.0 kB/s",
    ]


def test_what_prints_to_an_ended_pipe_goes_on_into_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as ended, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", ended)
        patch.setattr("sys.stderr", ended)
        with pytest.raises(BrokenPipeError):
            console.data("lost")
        with console.outliving():
            console.data("lost too")
            console.progress().note("and this")
            assert not sys.stderr.isatty()
        assert sys.stdout is ended
