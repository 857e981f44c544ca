"""A machine that fails: the N-th open, write, flush, rename or removal below a prefix, for real.

A library that is loaded first lets the call fail where Python meets the system; see failing.c.
"""

import errno
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.site import Site, complete

CALLS = ("open", "write", "fsync", "rename", "unlink", "make")
CODES = {
    errno.EIO: {0, 14},
    errno.EMFILE: {0, 14},
    errno.ENOSPC: {0, 7},
    errno.EDQUOT: {0, 7},
    errno.EROFS: {0, 3, 14},
}
"""What may come of each; 0 where what failed need not be done now."""
_START = (sys.executable, "-I", "-B", "-m", "llava_pack")
OPERATIONS = ("install", "install.sh's installer", "revert", "gc", "uninstall")


@dataclass(frozen=True)
class Fault:
    """One call that fails: which operation, kind and number, and how."""

    operation: str
    call: str
    at: int
    code: int

    def __str__(self) -> str:
        return f"{self.operation}: {self.call} {self.at} with {errno.errorcode[self.code]}"


class FailingMachine:
    """A site with two generations, saved, on which one call of an operation fails.

    Args:
        site: with nothing in it.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        site.write("old")
        site.write("new", weights=b"newer weights", release=1_800_000_000)
        site.write("newest", weights=b"newest weights", release=1_900_000_000)
        site.install("old")
        site.install("new")
        site.save()
        source = Path(__file__).with_suffix(".c")
        self._library = site.folder / "failing.so"
        command = ["cc", "-shared", "-fPIC", "-Wall", "-Wno-nonnull-compare", "-O1"]
        subprocess.run([*command, "-o", str(self._library), str(source), "-ldl"], check=True)
        self._untouched: dict[str, object] = {}

    def draw(self, chance: random.Random, tries: int) -> Iterator[Fault]:
        """Yield faults of calls that the operations really make."""
        counts = {one: self._counts(one) for one in OPERATIONS}
        for _ in range(tries):
            operation = chance.choice(OPERATIONS)
            call = chance.choice([name for name in CALLS if counts[operation][name]])
            at = chance.randint(1, counts[operation][call])
            yield Fault(operation, call, at, chance.choice(list(CODES)))

    def meet(self, fault: Fault, *, exactly: int | None = None) -> str:
        """Let it happen, then do the same again without; return what was wrong, else nothing.

        Args:
            fault: what fails.
            exactly: the exit code that must come; None for any of `CODES`.
        """
        if fault.operation not in self._untouched:
            self._counts(fault.operation)
        self.site.restore()
        done = self._run(fault.operation, fault.call, fault.at, fault.code)
        if done.returncode not in (CODES[fault.code] if exactly is None else {exactly}):
            return f"{fault}: exit {done.returncode}: {done.stderr}"
        if "Traceback" in done.stderr:
            return f"{fault}: {done.stderr}"
        left = self.site.prefix.exists()
        if left:
            complete(self.site.prefix)
        again = self._run(fault.operation)
        if again.returncode != 0 and not (fault.operation == "revert" and done.returncode == 0):
            return f"{fault}: again: exit {again.returncode}: {again.stderr}"
        if self.site.state() != self._untouched[fault.operation]:
            return f"{fault}: the prefix is not as it would be otherwise"
        return ""

    def _counts(self, operation: str) -> dict[str, int]:
        told = self.site.folder / "count"
        self.site.restore()
        done = self._run(operation, CALLS[0], FAIL_COUNT=str(told))
        assert done.returncode == 0, done.stderr
        self._untouched[operation] = self.site.state()
        rows = (line.split() for line in told.read_text().splitlines())
        return {call: int(count) for call, count in rows}

    def run(
        self, operation: str, *, wrap: Sequence[str] = (), start: Sequence[str] = _START
    ) -> "subprocess.CompletedProcess[str]":
        """Run an operation on the saved site, below another command, and begun in another way."""
        self.site.restore()
        command = [*wrap, *self._command(operation, start)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _run(
        self, operation: str, call: str = "", at: int = 0, code: int = 0, **more: str
    ) -> "subprocess.CompletedProcess[str]":
        settings = {"LD_PRELOAD": str(self._library), "FAIL_UNDER": str(self.site.prefix)}
        settings |= {"FAIL_CALL": call, "FAIL_AT": str(at), "FAIL_ERRNO": str(code), **more}
        return subprocess.run(
            self._command(operation), capture_output=True, text=True, check=False,
            env={**os.environ, **(settings if call else {})},
        )  # fmt: skip

    def _command(self, operation: str, start: Sequence[str] = _START) -> list[str]:
        site = self.site
        prefix, bundle = str(site.prefix), str(site.medium("newest"))
        expect = ["--expect", site.ids["newest"], "--prefix", prefix]
        if operation == "install.sh's installer":
            own = [sys.executable, "-I", "-S", "-B", f"{bundle}/installer/llava_pack/target"]
            return [*own, "install", "--bundle", bundle, *expect]
        more = {
            "install": ["install", bundle, *expect],
            "revert": ["revert", "--generation", "1", "--prefix", prefix],
            "gc": ["gc", "--keep", "1", "--prefix", prefix],
            "uninstall": ["uninstall", "--prefix", prefix],
        }
        return [*start, *more[operation]]
