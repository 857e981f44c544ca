"""The command line on a target: what install.sh starts, and the only place here that prints."""

import argparse
import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, _stop)
    options = _parser().parse_args(argv)
    try:
        options.command(options)
    except PackError as error:
        _failure(error, as_json=options.json)
        return int(error.exit_code)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001 - the boundary: a bug gets its own exit code
        traceback.print_exc()
        _failure(PackError(f"{type(error).__name__}: {error}"), as_json=options.json)
        return int(ExitCode.BUG)
    return int(ExitCode.OK)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava-pack", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, call: Any, help_text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help_text, allow_abbrev=False)
        made.add_argument("--json", action="store_true", help="end with one JSON object on stdout")
        made.set_defaults(command=call)
        if name != "verify":
            default = generations.default_prefix()
            made.add_argument("--prefix", type=Path, default=default, help="default: %(default)s")
        return made

    made = command("install", _install, "install a bundle, offline")
    made.add_argument("--bundle", type=Path, required=True, help="the folder of the bundle")
    made.add_argument("--expect", help="the bundle id from the card, or its first 32 digits")
    made.add_argument("--python", type=Path, help="for a bundle that carries no Python")
    made.add_argument("--dry-run", action="store_true", help="write nothing, say what would happen")
    made = command("verify", _verify, "read a whole bundle and report every difference")
    made.add_argument("--bundle", type=Path, required=True, help="the folder of the bundle")
    made.add_argument("--expect", help="the bundle id from the card, or its first 32 digits")
    made = command("generations", _generations, "list what is installed")
    made.add_argument("--recipe", help="only this one")
    made = command("revert", _revert, "go back to an earlier generation")
    made.add_argument("--recipe", help="default: the one activated last")
    made.add_argument("--generation", type=int, help="default: the one before the current")
    made = command("gc", _gc, "remove old generations and files that none needs")
    made.add_argument("--keep", type=int, default=2, help="generations of each recipe that stay")
    made = command("uninstall", _uninstall, "remove one recipe, or everything")
    made.add_argument("--recipe", help="default: everything under the prefix")
    return parser


def _install(options: argparse.Namespace) -> None:
    request = installer.Request(
        bundle=options.bundle,
        expect=options.expect,
        prefix=options.prefix.absolute(),
        python=options.python,
    )
    if options.dry_run:
        planned = installer.plan(request)
        for finding in planned.findings:
            _say(f"{_MARKS[finding.level]} {finding.name}: {finding.value} (need {finding.need})")
        _say(f"would copy {planned.copy_bytes} bytes; {planned.stored_bytes} are in the store")
        sizes = {"copy_bytes": planned.copy_bytes, "stored_bytes": planned.stored_bytes}
        return _end(options, "plan", sizes, "nothing was written")
    outcome = installer.install(request, Lines())
    word = "is installed already" if outcome.unchanged else "is installed"
    _say(f"{outcome.recipe} generation {outcome.generation} {word}; next:")
    facts: dict[str, Any] = {
        "recipe": outcome.recipe,
        "generation": outcome.generation,
        "bundle_id": outcome.bundle_id,
        "prefix": str(outcome.prefix),
        "unchanged": outcome.unchanged,
        "next": outcome.command,
    }
    return _end(options, "install", facts, outcome.command)


def _verify(options: argparse.Namespace) -> None:
    verified = inventory.verify_bundle(options.bundle, expect=options.expect, progress=Lines())
    facts = {
        "bundle_id": verified.bundle_id,
        "expected": verified.expected,
        "files": verified.files,
        "size_bytes": verified.size_bytes,
    }
    trust = "the id you gave" if verified.expected else "its own list; compare the id with the card"
    _end(options, "verify", facts, f"{verified.bundle_id} every file matches {trust}")


def _generations(options: argparse.Namespace) -> None:
    rows = [_row(item) for item in generations.listing(options.prefix, options.recipe)]
    lines = [
        f"{'*' if row['current'] else ' '} {row['recipe']} {row['generation']} {row['bundle_id']}"
        for row in rows
    ]
    _end(options, "generations", {"generations": rows}, "\n".join(lines) or "none")


def _row(item: generations.Generation) -> dict[str, Any]:
    return {
        "recipe": item.recipe,
        "generation": item.number,
        "current": item.current,
        "bundle_id": item.receipt.bundle_id,
        "release": item.receipt.release,
        "installed_at": item.receipt.installed_at,
        "size_bytes": item.receipt.size_bytes,
    }


def _revert(options: argparse.Namespace) -> None:
    item = removal.revert(options.prefix, options.recipe, options.generation, Lines())
    _end(options, "revert", _row(item), f"{options.prefix}/bin/llava-pack serve")


def _gc(options: argparse.Namespace) -> None:
    _freed(options, "gc", removal.gc(options.prefix, Lines(), keep=options.keep))


def _uninstall(options: argparse.Namespace) -> None:
    _freed(options, "uninstall", removal.uninstall(options.prefix, options.recipe, Lines()))


def _freed(options: argparse.Namespace, kind: str, freed: removal.Freed) -> None:
    facts = {"generations": freed.generations, "store_bytes": freed.store_bytes}
    names = ", ".join(freed.generations) or "no generation"
    _end(options, kind, facts, f"removed {names} and {freed.store_bytes} bytes of the store")


def _end(options: argparse.Namespace, kind: str, facts: dict[str, Any], line: str) -> None:
    if options.json:
        print(json.dumps({"schema": _SCHEMA, "kind": kind, **facts}), flush=True)
    else:
        print(visible(line, keep="\n"), flush=True)


def _failure(error: PackError, *, as_json: bool) -> None:
    _say(f"error: {error}")
    if error.hint:
        _say(f"hint: {error.hint}")
    if as_json:
        facts = {"error": error.kind, "exit_code": int(error.exit_code), "subject": error.subject}
        body = {**facts, "message": error.message, "hint": error.hint}
        print(json.dumps({"schema": _SCHEMA, "kind": "error", **body}), flush=True)


def _say(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)


class Lines:
    """Progress as plain lines on stderr, one now and then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._what = ""
        self._total: int | None = None
        self._done = 0
        self._began = self._said = 0.0

    def start(self, what: str, total_bytes: int | None) -> None:
        """Begin a phase."""
        with self._lock:
            self._what, self._total, self._done = what, total_bytes, 0
            self._began = self._said = time.monotonic()

    def advance(self, size_bytes: int) -> None:
        """Count bytes."""
        with self._lock:
            self._done += size_bytes
            if time.monotonic() - self._said >= _EVERY_S:
                self._said = time.monotonic()
                rate = self._done / max(self._said - self._began, 1e-9)
                left_s = ((self._total or self._done) - self._done) / rate if rate else 0.0
                _say(f"{self._what}: {_amount(self._done, rate)}, {left_s:.0f} s left")

    def note(self, text: str) -> None:
        """Say one line."""
        _say(text)

    def done(self) -> None:
        """End the phase with what it took."""
        took_s = max(time.monotonic() - self._began, 1e-9)
        amount = f", {_amount(self._done, self._done / took_s)}" if self._done else ""
        _say(f"{self._what}: {took_s:.1f} s{amount}")


def _amount(size_bytes: int, rate: float) -> str:
    return f"{size_bytes / 1e6:.1f} MB at {rate / 1e6:.0f} MB/s"
