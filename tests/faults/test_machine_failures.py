"""A machine that refuses: read-only, out of descriptors, over its quota, with a disk that fails.

Each ends with its exit code and without a traceback, what was active stays whole, and the same
command goes on later. The causes are real ones, or errors where Python meets the system.
"""

import errno
import resource
import shutil
import subprocess
import sys

import pytest

from llava_pack.target import receipt
from tests.support.failing import OPERATIONS, FailingMachine, Fault
from tests.support.flips import flips, ways_into
from tests.support.keys import new_publisher
from tests.support.kills import killed_installs
from tests.support.site import Site, complete
from tests.support.tries import Tries


@pytest.fixture(scope="module")
def machine(memory):
    return FailingMachine(Site(memory / "machine"))


def unshared():
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode


@pytest.mark.namespace
@pytest.mark.skipif(unshared() != 0, reason="no mount namespaces here")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_prefix_that_is_read_only(machine, operation):
    place = machine.site.prefix
    mount = f"mount --bind {place} {place} && mount -o remount,ro,bind {place}"
    done = machine.run(
        operation, wrap=["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    )
    assert done.returncode == 3, done.stderr
    assert "read-only" in done.stderr.lower()
    assert "Traceback" not in done.stderr
    complete(place)


@pytest.mark.parametrize(("operation", "files"), [("install", 8), ("gc", 6), ("uninstall", 8)])
def test_too_few_open_files(machine, operation, files):
    done = machine.run(operation, wrap=["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"])
    assert done.returncode == 14, done.stderr
    assert "Too many open files" in done.stderr
    assert "ulimit -n" in done.stderr
    assert "Traceback" not in done.stderr
    complete(machine.site.prefix)


_UNEXPLAINED = """
import contextlib, runpy, sys
from llava_pack.target import failures
failures.explained = lambda prefix: contextlib.nullcontext()
runpy.run_module("llava_pack", run_name="__main__")
"""


@pytest.mark.parametrize(("operation", "files"), [("gc", 6), ("uninstall", 8)])
def test_without_its_explanation_it_would_be_a_traceback(machine, operation, files):
    unexplained = [sys.executable, "-I", "-B", "-c", _UNEXPLAINED]
    few = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh"]
    done = machine.run(operation, wrap=few, start=unexplained)
    assert done.returncode != 14
    assert "Traceback" in done.stderr


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
@pytest.mark.parametrize(
    ("operation", "error", "code"),
    [("gc", "EIO", 14), ("revert", "EIO", 14), ("revert", "EDQUOT", 7), ("uninstall", "EIO", 14)],
)
def test_a_journal_that_cannot_be_flushed(machine, operation, error, code):
    """The kernel says so, to the first flush: that of the journal."""
    inject = ["-e", "trace=fsync", "-e", f"inject=fsync:error={error}:when=1", "-o", "/dev/null"]
    done = machine.run(operation, wrap=["strace", "-f", "--seccomp-bpf", *inject])
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    complete(machine.site.prefix)


@pytest.mark.parametrize(
    ("error", "code"), [(errno.EIO, 14), (errno.EDQUOT, 7), (errno.EMFILE, 14), (errno.EROFS, 3)]
)
def test_a_lock_that_cannot_be_opened(machine, error, code):
    assert machine.meet(Fault("gc", "open", 1, error), exactly=code) == ""


def test_what_cannot_be_read_now_is_not_taken_for_gone(machine):
    """A generation whose receipt is gone is incomplete, and cleared away by the next run."""
    machine.site.restore()
    root = machine.site.prefix / "models/tiny/generations/1"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            receipt.read(root)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert receipt.read(root) is not None
    assert receipt.read(root / "model") is None


def test_a_sample_of_calls_that_fail(machine):
    """The first of those that tests/attack/faults.py tries."""
    tries = Tries("calls to the system that fail")
    tries.all(map(machine.meet, machine.draw(tries.chance, 3)))


def test_a_sample_of_flipped_bits(site, tmp_path):
    """The first of those that tests/attack/flips.py tries: of what is not listed, and more."""
    publisher = new_publisher(tmp_path, "publisher")
    root = site.write("bundle")
    publisher.sign(root)
    tries = Tries("flipped bits")
    tries.all(flips(root, ways_into(site, publisher, "bundle"), tries.chance, 12))


def test_a_sample_of_killed_installs(site):
    """The first of those that tests/attack/install_kills.py tries."""
    tries = Tries("killed installs")
    tries.all(killed_installs(site, tries.chance, 3))
