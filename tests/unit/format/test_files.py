"""A file is replaced as a whole, whatever comes in between."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pack.format import files
from tests.support.small_disk import disk_of

_BEGIN = (
    "import sys; from pathlib import Path; from llava_pack.format import files\npath = Path({!r})\n"
)
_KILLED = """
with files.replacing(path) as stream:
    stream.write(b"half of what")
    stream.flush()
    print(flush=True)
    sys.stdin.read()
"""
_MANY = """
data = sys.argv[1].encode() * 5000
for _ in range(300):
    files.write(path, data, durable=False)
"""


def running(path: Path, code: str, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-B", "-c", _BEGIN.format(str(path)) + code, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "kept [1].json"
    path.write_bytes(b"before")
    return path


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced(path: Path, *, durable: bool) -> None:
    files.write(path, b"after", durable=durable)
    assert path.read_bytes() == b"after"
    assert names(path.parent) == [path.name]


@pytest.mark.parametrize(("mode", "expected"), [(0o644, 0o644), (0o444, 0o444), (None, 0o640)])
def test_a_mode_is_exact_and_else_the_umask_decides(
    path: Path, mode: int | None, expected: int
) -> None:
    before = os.umask(0o027)
    try:
        files.write(path, b"after", mode)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == expected


def test_a_file_with_a_mode_is_for_nobody_else_while_it_is_written(path: Path) -> None:
    before = os.umask(0)
    try:
        with files._opened_beside(path, 0o644) as stream:
            assert os.fstat(stream.fileno()).st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_a_writer_that_was_killed_leaves_what_was_there_and_the_next_one_clears_up(
    path: Path,
) -> None:
    with running(path, _KILLED) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        files.write(path, b"meanwhile")
        assert len(names(path.parent)) == 2, "one that is still writing was cleared away"
        writer.kill()
        assert writer.wait() == -signal.SIGKILL
    assert path.read_bytes() == b"meanwhile"
    assert len(names(path.parent)) == 2
    files.write(path, b"after")
    assert names(path.parent) == [path.name]
    assert path.read_bytes() == b"after"


def test_a_full_disk_leaves_what_was_there_and_nothing_else(path: Path) -> None:
    with disk_of(64 << 10), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        files.write(path, bytes(1 << 20))
    assert path.read_bytes() == b"before"
    assert names(path.parent) == [path.name]


def test_a_block_that_fails_leaves_what_was_there_and_nothing_else(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.replacing(path):
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before"
    assert names(path.parent) == [path.name]


def test_many_writers_all_succeed_and_the_file_is_one_of_theirs(path: Path) -> None:
    writers = [running(path, _MANY, letter) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        data = path.read_bytes()
        seen.add((data[:1], len(data)))
    assert [writer.communicate() and writer.returncode for writer in writers] == [0, 0]
    assert seen <= {(b"b", 6), (b"a", 5000), (b"b", 5000)}
    assert names(path.parent) == [path.name]


def test_a_duplicate_of_the_descriptor_keeps_the_lock(path: Path) -> None:
    with files.replacing(path) as stream:
        stream.write(b"after")
        kept = os.dup(stream.fileno())
    with path.open("rb") as reader:
        with pytest.raises(BlockingIOError):
            fcntl.flock(reader, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(kept)
        fcntl.flock(reader, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_is_beside_a_file_and_no_writer_s_stays(path: Path) -> None:
    """In a folder that another account can write: nothing is followed, and nothing is waited for."""
    fifo, link, note = (
        path.with_name(f".{path.name}.{n}.new") for n in ("0" * 8, "1" * 8, "my-notes")
    )
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    note.write_bytes(b"mine")
    left = path.with_name(f".{path.name}.{'2' * 8}.new")
    left.write_bytes(b"half")
    files.write(path, b"after")
    assert path.read_bytes() == b"after"
    assert set(names(path.parent)) == {path.name, fifo.name, link.name, note.name}
