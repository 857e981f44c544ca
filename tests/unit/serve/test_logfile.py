"""One log, always in the same place, that does not grow without bound."""

import logging
from pathlib import Path

import pytest

from llava_pack.format.errors import ServeError
from llava_pack.serve.logfile import LogFile, kept, last_lines, log_path


def _record(text: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, "", 0, text, None, None)


def test_a_full_file_is_kept_once_and_two_writers_agree(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "serve.log"
    one, two = LogFile(path, max_bytes=300), LogFile(path, max_bytes=300)
    for number in range(30):
        (one if number % 2 else two).emit(_record(f"line {number}"))
    one.close()
    two.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["serve.log", "serve.log.1"]
    assert path.stat().st_size < 400
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open() as stream:
        shown = [line.rpartition(" ")[2] for line in last_lines(path, stream, 5)]
        assert shown == ["25", "26", "27", "28", "29"]
        assert stream.read() == "", "whoever follows goes on from here"
    with path.open() as stream:
        assert last_lines(path, stream, 0) == []


def test_errors_go_to_stderr_too_and_everything_to_the_file(tmp_path: Path) -> None:
    path = log_path(tmp_path / "run")
    with kept(path):
        logging.getLogger("llava_pack.serve.test").info("one line\nand another")
    logging.getLogger("llava_pack.serve.test").info("not any more")
    text = path.read_text()
    assert "llava_pack.serve.test: one line" in text
    assert "not any more" not in text


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")
    with (
        pytest.raises(ServeError, match="the log cannot be written"),
        kept(log_path(tmp_path / "r")),
    ):
        raise AssertionError
