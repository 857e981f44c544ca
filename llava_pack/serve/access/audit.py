"""The audit log: which key asked what, when, and how much it took. Never what it said.

One line a request, as JSON, under the name of its key. Who shows no key writes nothing: such
requests are counted, and the count is one line a minute at most, so that strangers can neither
fill the log nor push out of it what it holds. Nor can one key: beyond ten lines a second its
requests are counted too.

Source: docs/how-to/keys.md, "The audit log".
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from llava_pack.format.errors import UsageError
from llava_pack.serve.access.quota import Bucket

Destination = Literal["file", "journal", "syslog", "off"]
DESTINATIONS: tuple[Destination, ...] = get_args(Destination)
NAME = "audit.log"
MAX_MB, KEEP = 16, 8
_log = logging.getLogger(__name__)
_SUMMARY_EVERY_S = 60.0
_LINES, _LINES_EVERY_S = 600, 60.0
"""As many lines of one key are written at once, and as many again in so many seconds."""


@dataclass(frozen=True, kw_only=True)
class AuditPlan:
    """Where audit lines go, as plain values.

    Attributes:
        to: a file, systemd's journal, syslog, or nowhere.
        path: of the file.
        max_mb: size at which the file is put aside, in millions of bytes.
        keep: how many of those are kept.
    """

    to: Destination = "off"
    path: str = ""
    max_mb: int = MAX_MB
    keep: int = KEEP


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One request, as it is written down.

    Attributes:
        request_id: as in `X-Request-Id`.
        key: the name of the key.
        key_id: its id, which tells it from another key that had the name before.
        client: the address that it came from; empty for the server's Unix socket.
        route: method and template of the route.
        model: the name of the model that answered; empty where none did.
        status: of the answer.
        tokens_in: of the prompt.
        tokens_out: of the answer.
        pictures: how many were sent.
        seconds: until the answer was whole.
    """

    request_id: str
    key: str
    key_id: str
    client: str
    route: str
    model: str
    status: int
    tokens_in: int
    tokens_out: int
    pictures: int
    seconds: float

    def line(self, now_s: float) -> str:
        """Return the line for it, on one line whatever a name holds."""
        fields = asdict(self) | {"seconds": round(self.seconds, 3)}
        return _line(now_s, request=fields.pop("request_id"), **fields)


class Sink(Protocol):
    """Where lines go."""

    def write(self, line: str) -> None:
        """Write one line.

        Raises:
            OSError: it could not be written.
        """

    def close(self) -> None:
        """Let go of whatever is open."""


class AuditLog:
    """Writes entries to a sink, and counts what is not worth a line.

    Args:
        sink: where lines go; None writes nothing.
        clock: UTC seconds.
    """

    def __init__(self, sink: Sink | None, clock: Callable[[], float] = time.time) -> None:
        self._sink = sink
        self._clock = clock
        self._allowed: dict[str, Bucket] = {}
        self._counted: Counter[str] = Counter()
        self._strangers = 0
        self._lost = 0
        self._summed_s = clock()

    def write(self, entry: Entry) -> None:
        """Write down a request of a key."""
        if self._sink is None:
            return
        now_s = self._clock()
        allowed = self._allowed.get(entry.key_id) or Bucket.full(_LINES, _LINES_EVERY_S, now_s)
        allowed = allowed.later(now_s)
        if allowed.wait_s:
            self._counted[entry.key] += 1
        else:
            self._put(entry.line(now_s))
            allowed = allowed.less(1)
        self._allowed[entry.key_id] = allowed
        self._sum_up(now_s)

    def stranger(self) -> None:
        """Count a request that showed no key."""
        if self._sink is not None:
            self._strangers += 1
            self._sum_up(self._clock())

    def close(self) -> None:
        """Write what was only counted so far, and let go of the sink."""
        if self._sink is not None:
            self._sum_up(float("inf"))
            self._sink.close()

    def _sum_up(self, now_s: float) -> None:
        """Write one line for all that was counted, once a minute at most."""
        if 0 <= now_s - self._summed_s < _SUMMARY_EVERY_S:
            return
        if self._lost:
            _log.error("%d lines of the audit log could not be written", self._lost)
            self._lost = 0
        if self._strangers or self._counted:
            since = _utc(self._summed_s)
            counted, self._counted = dict(sorted(self._counted.items())), Counter()
            strangers, self._strangers = self._strangers, 0
            self._put(
                _line(self._clock(), since=since, refused_without_key=strangers, unlisted=counted)
            )
        self._summed_s = self._clock()

    def _put(self, line: str) -> None:
        try:
            if self._sink is not None:
                self._sink.write(line)
        except OSError as error:
            if not self._lost:
                _log.error("the audit log cannot be written: %s", error.strerror or error)
            self._lost += 1


def destination(name: str) -> Destination:
    """Return where the audit log goes.

    Raises:
        UsageError: there is no such place.

    >>> destination("journal")
    'journal'
    """
    for known in DESTINATIONS:
        if name == known:
            return known
    raise UsageError(f"expected one of {', '.join(DESTINATIONS)}, got {name}", subject="--audit-to")


def audit_path(run_directory: Path) -> Path:
    """Return where the audit log is, beside the log.

    >>> audit_path(Path("/opt/llava-pack/run")).as_posix()
    '/opt/llava-pack/logs/audit.log'
    """
    return run_directory.parent / "logs" / NAME


def _line(now_s: float, **fields: Any) -> str:
    return json.dumps({"time": _utc(now_s), **fields}, separators=(",", ":"))


def _utc(now_s: float) -> str:
    moment = datetime.fromtimestamp(now_s, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
