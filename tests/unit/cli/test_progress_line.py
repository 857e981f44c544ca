"""A line of progress: for any numbers, name and width."""

import fcntl
import os
import pty
import re
import struct
import termios

from hypothesis import example, given
from hypothesis import strategies as st

from llava_pack.cli import console
from llava_pack.cli.progress_line import columns, progress_line, shortened
from llava_pack.format.text import clock, readable

SIZES = st.integers(0, 10**15)
NAMES = st.text(st.sampled_from("ab-./ 离线包视觉塔e\u0301\u200b\x1b\n"), max_size=60)


@given(NAMES, SIZES, SIZES | st.none(), st.floats(0, 1e12), st.integers(1, 200))
def test_it_fits_the_terminal_and_says_nothing_impossible(what, done, total, rate, width):
    line = progress_line(what, done, total, rate, width)
    assert columns(line) <= width
    assert line.isprintable() or "\u200b" in line
    assert all(0 <= int(percent) <= 100 for percent in re.findall(r"(\d+) %", line))
    assert "-0" not in line
    assert not re.search(r"-\d", line.replace(what, ""))


@given(SIZES, SIZES, st.floats(0, 1e12))
def test_a_whole_terminal_has_all_of_it(done, total, rate):
    whole = progress_line("fetch x", done, total or None, rate)
    assert progress_line("fetch x", done, total or None, rate, 200) == whole
    assert whole.startswith("fetch x: ")


@given(SIZES, st.integers(1, 10**15))
def test_only_what_is_complete_is_100_percent(done, total):
    line = progress_line("x", done, total, 1.0)
    assert ("(100 %)" in line) == (done >= total)


@given(NAMES, st.integers(0, 100))
def test_a_name_keeps_its_ends(text, width):
    short = shortened(text, width)
    assert columns(short) <= width
    assert short == text or width == 0 or "…" in short


@given(st.floats(-1e9, 1e9))
def test_a_time_left_is_never_negative(seconds):
    assert re.fullmatch(r"\d+:[0-5]\d( h)?", clock(seconds))


@given(SIZES, SIZES)
@example(0, 999_950)
def test_sizes_that_differ_look_different(one, other):
    said = readable(f"预期 {one} bytes 实际为 {other} 字节; sha256 {'1' * 64}")
    expected, got = re.fullmatch(r"预期 (.+) 实际为 (.+); sha256 1{64}", said).groups()
    assert one == other or expected != got
    assert not re.search(r"\d{4}", got) or max(one, other) >= 10**12 or str(other) in got


def test_a_terminal_is_measured_each_time_it_is_drawn_on(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    here, there = pty.openpty()
    now = [0.0]
    with os.fdopen(there, "w") as terminal, os.fdopen(here, "rb") as seen:
        drawn = []
        progress = console.ConsoleProgress(terminal, lambda: now[0])
        for width in (60, 30):
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
            if not drawn:
                progress.start("fetch model-00001-of-00002.safetensors", 4_000_000_000)
            now[0] += 2
            progress.advance(1_000_000_000)
            shown = b""
            while not shown.endswith(b" left"):  # the kernel hands it over in pieces
                shown += os.read(seen.fileno(), 4096)
            drawn.append(shown.decode())
    assert drawn[0].rpartition("\x1b[K")[2] == (
        "fetch model-000…02.safetensors: 25 %, 500.0 MB/s, 0:06 left"
    )
    assert drawn[1] == "\r\x1b[1A\x1b[Jfetch …nsors: 50 %, 0:04 left", "two lines were one"
