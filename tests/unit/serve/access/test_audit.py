"""The audit log: what it says, what it does not, and that nobody pushes lines out of it."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from llava_pack.format.errors import ServeError
from llava_pack.serve.access import audit_sinks
from llava_pack.serve.access.audit import AuditLog, AuditPlan, Entry
from llava_pack.serve.access.audit_sinks import (
    DatagramSink,
    FileSink,
    for_journal,
    for_syslog,
    sink_of,
)

_NOW = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now_s = _NOW

    def __call__(self) -> float:
        return self.now_s


class Lines:
    """A sink that keeps what it is given, or has no room."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.full = False
        self.closed = False

    def write(self, line: str) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        assert "\n" not in line
        self.said.append(json.loads(line))

    def close(self) -> None:
        self.closed = True


def _entry(key: str = "ann", model: str = "demo") -> Entry:
    return Entry(
        request_id="r1", key=key, key_id=key, client="192.0.2.7", route="POST /v1/chat/completions", model=model,
        status=200, tokens_in=12, tokens_out=3, pictures=1, seconds=0.12345,
    )  # fmt: skip


def test_a_line_says_who_when_and_how_much() -> None:
    sink = Lines()
    AuditLog(sink, Clock()).write(_entry(model="a\nb"))
    assert sink.said == [
        {
            "time": "2027-01-15T08:00:00.000Z", "request": "r1", "key": "ann", "key_id": "ann",
            "client": "192.0.2.7",
            "route": "POST /v1/chat/completions", "model": "a\nb", "status": 200,
            "tokens_in": 12, "tokens_out": 3, "pictures": 1, "seconds": 0.123,
        }
    ]  # fmt: skip


def test_strangers_are_a_number_once_a_minute() -> None:
    clock, sink = Clock(), Lines()
    audit = AuditLog(sink, clock)
    for second in range(180):
        clock.now_s = _NOW + second
        for _ in range(100):
            audit.stranger()
    assert [line["refused_without_key"] for line in sink.said] == [6001, 6000]
    audit.close()
    assert [line["refused_without_key"] for line in sink.said] == [6001, 6000, 5999]
    assert sink.closed


def test_one_key_cannot_fill_it_and_others_are_still_written() -> None:
    clock, sink = Clock(), Lines()
    audit = AuditLog(sink, clock)
    for _ in range(5000):
        audit.write(_entry("eve"))
    audit.write(_entry("ann"))
    assert [line["key"] for line in sink.said] == ["eve"] * 600 + ["ann"]
    clock.now_s += 60
    audit.write(_entry("eve"))
    assert sink.said[-1]["unlisted"] == {"eve": 4400}


def test_what_could_not_be_written_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    clock, sink = Clock(), Lines()
    audit = AuditLog(sink, clock)
    sink.full = True
    for _ in range(5):
        audit.write(_entry())
    assert [record.message for record in caplog.records] == [
        "the audit log cannot be written: No space left on device"
    ]
    sink.full = False
    clock.now_s += 60
    audit.write(_entry())
    assert caplog.records[-1].message == "5 lines of the audit log could not be written"


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_full_file_is_put_aside_and_so_many_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "audit.log"
    one, two = FileSink(path, 100, keep=2), FileSink(path, 100, keep=2)
    for number in range(60):
        (one if number % 2 else two).write(f"line {number:04}")
    assert _files(path.parent) == ["audit.log", "audit.log.1", "audit.log.2"]
    kept = [path.with_name(name).read_text() for name in reversed(_files(path.parent))]
    assert "".join(kept).split("\n")[:-1] == [f"line {number:04}" for number in range(30, 60)]
    assert all(len(text) == 100 for text in kept)
    assert path.stat().st_mode & 0o777 == 0o600
    one.close()
    two.close()


def test_none_is_kept_where_none_is_wanted(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "audit.log", 20, keep=0)
    for number in range(7):
        sink.write(f"line {number}")
    assert _files(tmp_path) == ["audit.log"]
    assert (tmp_path / "audit.log").read_text() == "line 6\n"
    sink.close()


def test_a_file_that_somebody_took_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    sink = FileSink(path, 100, keep=1)
    path.rename(tmp_path / "rotated")
    sink.write("next")
    sink.close()
    assert path.read_text() == "next\n"


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "audit.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ServeError, match="the audit log cannot be written"):
        sink_of(AuditPlan(to="file", path=str(tmp_path / "audit.log")))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("to", "name", "framed", "sent"),
    [
        ("journal", "JOURNAL", for_journal,
         b"MESSAGE={}\nPRIORITY=6\nSYSLOG_IDENTIFIER=llava-pack-audit\n"),
        ("syslog", "SYSLOG", for_syslog, b"<86>llava-pack-audit: {}"),
    ],
)  # fmt: skip
def test_journal_and_syslog_get_what_they_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any, name: str, framed: Any, sent: bytes
) -> None:
    path = tmp_path / "socket"
    monkeypatch.setattr(audit_sinks, name, path)
    with pytest.raises(ServeError, match="the audit log cannot be written"):
        sink_of(AuditPlan(to=to))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        sink = sink_of(AuditPlan(to=to))
        assert isinstance(sink, DatagramSink)
        sink.write("{}")
        sink.close()
        assert listening.recv(4096) == sent == framed("{}").encode()


def test_off_writes_nothing() -> None:
    assert sink_of(AuditPlan()) is None
    audit = AuditLog(None)
    audit.write(_entry())
    audit.stranger()
    audit.close()


def test_who_reads_may_be_started_again(tmp_path: Path) -> None:
    """A syslog that is restarted binds anew: what was connected to before is nobody's."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as before:
        before.bind(str(path))
        sink = DatagramSink(path, for_syslog)
    path.unlink()
    with pytest.raises(OSError, match="No such file"):
        sink.write("{}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as after:
        after.bind(str(path))
        sink.write("{}")
        assert after.recv(100) == b"<86>llava-pack-audit: {}"
    sink.close()
