"""What the receiver on the server prints, as values."""

import queue
import threading
from collections.abc import Iterator

from llava_pack.client.sending.cargo import Cargo
from llava_pack.client.sending.plan import FarSide
from llava_pack.client.waiting import next_of, wait_for
from llava_pack.format.errors import (
    CannotVerifyError,
    PackError,
    PreflightError,
    SpaceError,
    UsageError,
)
from llava_pack.format.progress import Progress

_HINTS: dict[str, tuple[type[PackError], str]] = {
    "2": (UsageError, "choose another folder with --to, or remove that one on the server"),
    "3": (PreflightError, "choose another folder with --to, or ask the server's administrator"),
    "6": (CannotVerifyError, "install coreutils or busybox on the server"),
    "7": (SpaceError, "free space there, then run the same command: it continues"),
}


def refusal(line: str) -> PackError:
    """Return the error for a `fail CODE TEXT` of the receiver."""
    _, code, text = line.split(" ", 2)
    kind, hint = _HINTS.get(code, (PackError, "report this as a bug"))
    subject, colon, message = text.partition(": ")
    return kind(message if colon else text, subject=subject if colon else "server", hint=hint)


def read_far_side(lines: Iterator[str], cargo: Cargo, progress: Progress) -> FarSide | None:
    """Return what is on the server; None where the receiver ended before it had told.

    Raises:
        PackError: it refuses, and says why.
    """
    promised = {file.path: file for file in cargo.files}
    sizes = {file.sha256: file.size_bytes for file in cargo.files}
    told: dict[str, str] = {}
    listed: list[str] = []
    parts: dict[str, int] = {}
    have: set[str] = set()
    stored: set[str] = set()
    hashing = False
    for line in lines:
        word, _, rest = line.partition(" ")
        match word:
            case "fail":
                raise refusal(line)
            case "at" | "program" | "free" | "inodes":
                told[word] = rest
            case "exists" if rest in promised:
                listed.append(promised[rest].sha256)
            case "stored":
                listed.append(rest)
            case "part":
                digest, size = rest.split()
                parts[digest] = int(size)
            case "here" | "store":
                digest, name = rest.split(" ", 1)
                if not hashing:
                    hashing = True
                    progress.start("checking what is there", sum(sizes[one] for one in listed))
                name = name.rpartition("/")[2] if word == "store" else name
                wanted = name if word == "store" else promised[name].sha256
                progress.advance(sizes.get(wanted, 0))
                if digest == wanted:
                    (stored if word == "store" else have).add(name)
            case "ready":
                if hashing:
                    progress.done()
                return FarSide(
                    folder=told["at"],
                    program=told.get("program"),
                    free_bytes=int(told["free"]) * 1024 if "free" in told else None,
                    free_inodes=int(told["inodes"]) if "inodes" in told else None,
                    have=frozenset(have),
                    stored=frozenset(stored),
                    parts=parts,
                )
    return None


class Answers:
    """What comes back while a bundle is sent, read beside the sending.

    Args:
        lines: that the receiver prints.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._settled: queue.Queue[bool] = queue.Queue()
        self.got: set[str] = set()
        """Paths that have arrived whole."""
        self.bad: set[str] = set()
        """Paths whose bytes were not right."""
        self.failure: PackError | None = None
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def settled(self) -> bool:
        """Wait until the receiver has hashed everything; False where it ended before."""
        return next_of(self._settled)

    def end(self) -> None:
        """Wait until the receiver prints no more."""
        wait_for(self._reading)

    def _read(self) -> None:
        try:
            for line in self._lines:
                self._take(line)
        finally:
            self._settled.put(item=False)

    def _take(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        match word:
            case "got":
                self.got.add(rest)
            case "bad":
                self.bad.add(rest)
            case "settled":
                self._settled.put(item=True)
            case "fail":
                self.failure = refusal(line)
