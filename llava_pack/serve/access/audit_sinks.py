"""Where audit lines go: a file with its predecessors, systemd's journal, or syslog."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llava_pack.format.errors import ServeError, reason_of
from llava_pack.serve.access.audit import AuditPlan, Sink

JOURNAL = Path("/run/systemd/journal/socket")
SYSLOG = Path("/dev/log")
_IDENTIFIER = "llava-pack-audit"
_INFORMATIONAL, _AUTHPRIV = 6, 10
_GONE = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.EPIPE})


def sink_of(plan: AuditPlan) -> Sink | None:
    """Return where a plan sends its lines; None where nowhere.

    Raises:
        ServeError: it cannot be written there.
    """
    try:
        match plan.to:
            case "file":
                return FileSink(Path(plan.path), plan.max_mb * 1_000_000, plan.keep)
            case "journal":
                return DatagramSink(JOURNAL, for_journal)
            case "syslog":
                return DatagramSink(SYSLOG, for_syslog)
            case "off":
                return None
    except OSError as error:
        raise ServeError(
            f"the audit log cannot be written: {reason_of(error)}",
            subject=plan.path if plan.to == "file" else plan.to,
            hint="choose another --audit-to: file, journal, syslog or off",
        ) from error


class FileSink:
    """Appends to a file of mode 0600; a full one becomes `.1`, that one `.2`, and so on.

    Several servers of one account may write to it: a line is one write, and each looks before it
    whether another has begun anew.
    """

    def __init__(self, path: Path, max_bytes: int, keep: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = self._open()

    def write(self, line: str) -> None:
        """Write one line, in a new file where the old one is full."""
        data = line.encode() + b"\n"
        if self._is_other() or os.fstat(self._descriptor).st_size + len(data) > self._max_bytes:
            self._begin_anew(len(data))
        written = os.write(self._descriptor, data)
        if written < len(data):
            raise OSError("the disk is full")

    def close(self) -> None:
        """Close the file; a line that comes after that is lost, and goes nowhere else."""
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)

    def _is_other(self) -> bool:
        """Return whether the path names another file by now, or none."""
        ours = os.fstat(self._descriptor)
        with contextlib.suppress(FileNotFoundError):
            theirs = self._path.stat(follow_symlinks=False)
            return (ours.st_ino, ours.st_dev) != (theirs.st_ino, theirs.st_dev)
        return True

    def _begin_anew(self, coming: int) -> None:
        with self._locked():
            with contextlib.suppress(FileNotFoundError):
                size = self._path.stat(follow_symlinks=False).st_size
                if size and size + coming > self._max_bytes:  # nobody did it meanwhile
                    self._put_aside()
            before, self._descriptor = self._descriptor, self._open()
            os.close(before)

    def _put_aside(self) -> None:
        names = [self._path, *(self._numbered(number) for number in range(1, self._keep + 1))]
        for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
        if not self._keep:
            self._path.unlink(missing_ok=True)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._path, flags, 0o600)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder, so that two servers do not put aside at once."""
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class DatagramSink:
    """Sends each line to a socket of this machine; it never waits for who reads there.

    Who reads there may be started again, and listens at another socket of the same name then.

    Args:
        path: of the socket.
        framed: what is sent for a line.
    """

    def __init__(self, path: Path, framed: Callable[[str], str]) -> None:
        self._framed = framed
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(self._path)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)

    def write(self, line: str) -> None:
        """Send one line, and once more where nobody reads at the socket of before."""
        data = self._framed(line).encode()
        try:
            self._socket.send(data)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self._socket.connect(self._path)
            self._socket.send(data)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def for_journal(line: str) -> str:
    """Return a line as systemd's journal takes it.

    Source: systemd, docs/JOURNAL_NATIVE_PROTOCOL.md; a value without a line feed is NAME=VALUE.
    """
    fields = {"MESSAGE": line, "PRIORITY": _INFORMATIONAL, "SYSLOG_IDENTIFIER": _IDENTIFIER}
    return "".join(f"{name}={value}\n" for name, value in fields.items())


def for_syslog(line: str) -> str:
    """Return a line as syslog takes it from its own machine.

    Source: RFC 3164, 4.1.1: facility times 8, plus severity.

    >>> for_syslog("{}")
    '<86>llava-pack-audit: {}'
    """
    return f"<{_AUTHPRIV * 8 + _INFORMATIONAL}>{_IDENTIFIER}: {line}"
