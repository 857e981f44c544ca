"""The command line on a target: what install.sh starts, and the only place here that prints."""

import argparse
import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from llava_pack.format.errors import PackError
from llava_pack.format.exit_codes import ExitCode
from llava_pack.format.text import visible
from llava_target import generations, installer, inventory, removal

_EVERY_S = 5.0
_SCHEMA = 1
_MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}
_Options = argparse.Namespace
_Result = tuple[dict[str, Any], str]
"""Facts for --json, and the last line for a person."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, _stop)
    options = _parser().parse_args(argv)
    try:
        facts, line = _COMMANDS[options.command][0](options)
    except PackError as error:
        return _failure(error, as_json=options.json)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001 - the boundary: a bug gets its own exit code
        traceback.print_exc()
        return _failure(PackError(f"{type(error).__name__}: {error}"), as_json=options.json)
    if options.json:
        line = json.dumps({"schema": _SCHEMA, "kind": options.command, **facts})
    print(visible(line, keep="\n"), flush=True)
    return int(ExitCode.OK)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava-pack", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, help_text, takes) in _COMMANDS.items():
        command = commands.add_parser(name, help=help_text, allow_abbrev=False)
        for option in (*takes.split(), "--json"):
            command.add_argument(option, **_OPTIONS[option])
    return parser


def _install(options: _Options) -> _Result:
    request = installer.Request(
        bundle=options.bundle,
        expect=options.expect,
        prefix=options.prefix.absolute(),
        python=options.python,
    )
    if options.dry_run:
        plan = installer.plan(request)
        for found in plan.findings:
            _say(f"{_MARKS[found.level]} {found.name}: {found.value} (need {found.need})")
        _say(f"would copy {plan.copy_bytes} bytes; {plan.stored_bytes} are in the store already")
        sizes = {"copy_bytes": plan.copy_bytes, "stored_bytes": plan.stored_bytes}
        return {"dry_run": True, **sizes}, "nothing was written"
    outcome = installer.install(request, Lines())
    word = "is installed already" if outcome.unchanged else "is installed"
    _say(f"{outcome.recipe} generation {outcome.generation} {word}; next:")
    return outcome.facts(), generations.command(outcome.prefix)


def _verify(options: _Options) -> _Result:
    found = inventory.verify_bundle(options.bundle, expect=options.expect, progress=Lines())
    trust = "--expect" if found.listing.expected else "its own list: compare the id with the card"
    return found.facts(), f"{found.listing.bundle_id}: every file matches {trust}"


def _generations(options: _Options) -> _Result:
    items = generations.listing(options.prefix, options.recipe)
    lines = [
        f"{'*' if item.current else ' '} {item.recipe} {item.number} {item.receipt.bundle_id}"
        for item in items
    ]
    return {"generations": [item.facts() for item in items]}, "\n".join(lines) or "none"


def _revert(options: _Options) -> _Result:
    item = removal.revert(options.prefix, options.recipe, options.generation, Lines())
    return item.facts(), generations.command(options.prefix)


def _gc(options: _Options) -> _Result:
    return _freed(removal.gc(options.prefix, Lines(), keep=options.keep))


def _uninstall(options: _Options) -> _Result:
    return _freed(removal.uninstall(options.prefix, options.recipe, Lines()))


def _freed(freed: removal.Freed) -> _Result:
    names = ", ".join(freed.generations) or "no generation"
    facts = {"generations": freed.generations, "store_bytes": freed.store_bytes}
    return facts, f"removed {names} and {freed.store_bytes} bytes of the store"


_OPTIONS: dict[str, dict[str, Any]] = {
    "--bundle": {"type": Path, "required": True, "help": "the folder of the bundle"},
    "--expect": {"help": "the bundle id from the card, or its first 32 digits"},
    "--prefix": {"type": Path, "default": generations.default_prefix(), "help": "where things are"},
    "--python": {"type": Path, "help": "for a bundle that carries no Python"},
    "--dry-run": {"action": "store_true", "help": "write nothing, say what would happen"},
    "--recipe": {"help": "only this one"},
    "--generation": {"type": int, "help": "default: the one before the current"},
    "--keep": {"type": int, "default": 2, "help": "how many generations of each recipe stay"},
    "--json": {"action": "store_true", "help": "end with one JSON object on stdout"},
}
_COMMANDS: dict[str, tuple[Callable[[_Options], _Result], str, str]] = {
    "install": (
        _install, "install a bundle, offline", "--bundle --expect --prefix --python --dry-run",
    ),
    "verify": (_verify, "read a whole bundle and name every difference", "--bundle --expect"),
    "generations": (_generations, "list what is installed", "--prefix --recipe"),
    "revert": (_revert, "go back to an earlier generation", "--prefix --recipe --generation"),
    "gc": (_gc, "remove old generations and files that none needs", "--prefix --keep"),
    "uninstall": (_uninstall, "remove one recipe, or everything", "--prefix --recipe"),
}  # fmt: skip


def _failure(error: PackError, *, as_json: bool) -> int:
    code = int(error.exit_code)
    _say(f"error: {error}")
    if error.hint:
        _say(f"hint: {error.hint}")
    if as_json:
        body = {"error": error.kind, "exit_code": code, "subject": error.subject}
        body |= {"message": error.message, "hint": error.hint}
        print(json.dumps({"schema": _SCHEMA, "kind": "error", **body}), flush=True)
    return code


def _say(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)


class Lines:
    """Progress as plain lines on stderr, one now and then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._what, self._total, self._done = "", 0, 0
        self._began = self._said = 0.0

    def start(self, what: str, total_bytes: int | None) -> None:
        """Begin a phase."""
        self._what, self._total, self._done = what, total_bytes or 0, 0
        self._began = self._said = time.monotonic()

    def advance(self, size_bytes: int) -> None:
        """Count bytes."""
        with self._lock:
            self._done += size_bytes
            now = time.monotonic()
            if now - self._said >= _EVERY_S:
                self._said = now
                left_s = (self._total - self._done) * (now - self._began) / self._done
                _say(f"{self._what}: {self._amount()}, {max(left_s, 0):.0f} s left")

    def note(self, text: str) -> None:
        """Say one line."""
        _say(text)

    def done(self) -> None:
        """End the phase with what it took."""
        amount = f", {self._amount()}" if self._done else ""
        _say(f"{self._what}: {time.monotonic() - self._began:.1f} s{amount}")

    def _amount(self) -> str:
        rate = self._done / max(time.monotonic() - self._began, 1e-9)
        return f"{self._done / 1e6:.1f} MB at {rate / 1e6:.0f} MB/s"
