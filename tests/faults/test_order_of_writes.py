"""A power cut, a second installer, a clock that is wrong."""

import errno
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest

from llava_pack.format.errors import InstallError
from llava_pack.target import disk, generations, planning, staging
from tests.support.site import KILLED, complete

TRACED = "rename,renameat,renameat2,fsync,fdatasync,syncfs,symlink,symlinkat"


@pytest.fixture(scope="module")
def trace(memory):
    """Give the calls of an upgrade, in their order, with the paths that they are about."""
    if shutil.which("strace") is None:
        pytest.skip("no strace here: the order of flushes cannot be seen")
    from tests.support.site import Site

    site = Site(memory / "traced")
    site.write("old")
    site.install("old")
    site.write("new", weights=b"newer weights", release=1_800_000_000)
    log = memory / "trace"
    command = ["strace", "-f", "--seccomp-bpf", "-y", "-e", f"trace={TRACED}", "-o", str(log)]
    command += [sys.executable, "-I", "-B", str(KILLED), "none", str(site.prefix)]
    subprocess.run([*command, *site.installing("new")], check=True, capture_output=True)
    return site, [line.split(maxsplit=1)[1] for line in log.read_text().splitlines()]


def places(lines, pattern):
    return [number for number, line in enumerate(lines) if re.search(pattern, line)]


def test_a_generation_is_on_disk_before_it_is_complete_and_before_it_is_current(trace):
    site, lines = trace
    root = f"{site.prefix}/models/tiny/generations/2"
    (_, flushed) = places(lines, rf"^syncfs\(\d+<{root}>")  # the first runs beside the smoke test
    [complete_] = places(lines, rf'^rename\w*\(.*"{root}/receipt\.json"')
    [current] = places(lines, r'^rename\w*\(.*/tiny/current"')
    (receipt, *_) = places(lines, rf"^fsync\(\d+<{root}/\.receipt\.json\.\w+\.new>")
    named = places(lines, rf"^fsync\(\d+<{root}>")
    assert flushed < receipt < complete_ < current
    assert any(complete_ < number < current for number in named)
    kept = places(lines, rf"^fsync\(\d+<{site.prefix}/models/tiny>")
    assert any(number > current for number in kept)


def test_a_file_of_the_store_is_on_disk_before_it_has_its_name(trace):
    site, lines = trace
    store = f"{site.prefix}/store"
    named = places(lines, rf'^rename\w*\(.*"{store}/sha256/')
    assert named
    (everything, _) = places(lines, r"^syncfs\(")
    for number in named:
        digest = re.search(r'/incoming/([0-9a-f]{64})"', lines[number])[1]
        assert places(lines[:number], rf"^fsync\(\d+<{store}/incoming/{digest}>"), digest
        assert number < everything, "its name is flushed before anything depends on it"


@pytest.mark.parametrize("name", ["remove_tree", "sync_all"])
def test_what_fails_beside_the_smoke_test_fails_the_install(site, monkeypatch, name):
    site.write("tiny")
    call, failed = getattr(disk, name), []

    def failing(path):
        if threading.current_thread() is threading.main_thread():
            return call(path)
        failed.append(path)
        raise OSError(errno.EIO, "it is broken", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(disk, name, failing)
        with pytest.raises(InstallError, match=r"it is broken.*; no generation is active"):
            site.install("tiny")
    assert len(failed) == 1
    assert generations.numbers(site.prefix, "tiny") == []
    assert site.install("tiny").generation == 1


def test_two_at_once_one_is_told_to_wait(site):
    gate = site.folder / "gate"
    gate.parent.mkdir(parents=True)
    os.mkfifo(gate)
    site.write("held", uv_first=f'[ ! -p "{gate}" ] || read -r _ <"{gate}"; rm -f "{gate}"')
    site.write("other", recipe="other")
    command = [sys.executable, "-I", "-B", str(KILLED), "none", str(site.prefix)]
    with subprocess.Popen([*command, *site.installing("held")], stdout=subprocess.PIPE) as first:
        with gate.open("w") as opened:  # the first one is in the middle of its environment now
            with pytest.raises(InstallError, match="another install, revert or removal is running"):
                site.install("other")
            opened.write("go on\n")
        assert first.wait(timeout=600) == 0
    assert generations.recipes(site.prefix) == ("tiny",)
    site.install("other")
    complete(site.prefix)


@pytest.mark.parametrize("year", [1970, 2038, 2106])
def test_a_wrong_clock_is_said_and_stops_nothing(site, monkeypatch, year):
    site.write("tiny")
    now = (year - 1970) * 31_557_600 + 3600
    clock = type("Clock", (), {"time": staticmethod(lambda: now)})
    for module in (planning, staging):
        for name in ("monotonic", "strftime", "gmtime"):
            setattr(clock, name, staticmethod(getattr(time, name)))
        monkeypatch.setattr(module, "time", clock)
    plan = planning.plan(site.request("tiny"), notes := Notes())
    level = {item.name: item.level for item in plan.findings}["clock"]
    assert level == ("warn" if year == 1970 else "ok")
    assert any(line.startswith("! clock: 1970-01-01") for line in notes) == (year == 1970)
    assert site.install("tiny").generation == 1
    [item] = generations.listing(site.prefix)
    assert item.receipt.installed_at == now
    assert site.install("tiny").unchanged


class Notes(list):
    """A Progress that keeps what is said."""

    def note(self, text):
        self.append(text)

    def start(self, what, total_bytes):
        pass

    def advance(self, size_bytes):
        pass

    def done(self):
        pass
