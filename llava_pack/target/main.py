"""The command line on a target: what install.sh starts, and the only place here that prints."""

import argparse
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from llava_pack.format.errors import PackError
from llava_pack.format.exit_codes import ExitCode
from llava_pack.format.text import clock, human_bytes, readable, visible
from llava_pack.format.translation import Catalogue, read_catalogue
from llava_pack.target import generations, installer, package_index
from llava_pack.target.collect import collect, typed_folder
from llava_pack.target.need import IncompleteError

_EVERY_S = 5.0
_SCHEMA = 1
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
        facts, line = _install(options)
    except IncompleteError as error:
        return _incomplete(error, options)
    except PackError as error:
        return _failure(error, as_json=options.json)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:  # noqa: BLE001 - the boundary: a bug gets its own exit code
        print(visible(traceback.format_exc(), keep="\n"), file=sys.stderr, end="")
        return _failure(PackError(f"{type(error).__name__}: {error}"), as_json=options.json)
    if options.json:
        line = json.dumps({"schema": _SCHEMA, "kind": options.command, **facts})
    print(visible(line, keep="\n"), flush=True)
    return int(ExitCode.OK)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava-pack", description=__doc__, allow_abbrev=False)
    parser.add_argument("command", choices=["install"])
    for option, takes in _OPTIONS.items():
        parser.add_argument(option, **takes)
    return parser


def _install(options: _Options) -> _Result:
    bundle, *others = options.bundle
    request = installer.InstallRequest(
        bundle=bundle,
        others=tuple(others),
        collect=options.collect,
        expect=options.expect,
        prefix=(options.prefix or generations.default_prefix()).absolute(),
        python=options.python,
        trust_key=options.trust_key,
        recipe=options.recipe,
        allow_downgrade=options.allow_downgrade,
        consume=options.consume,
        over_ssh=options.over_ssh,
        downtime=not options.no_downtime,
        accepted=options.accept_answer,
        kept=options.keep_env,
        indexes=package_index.named(options.index, options.index_host),
    )
    if options.dry_run:
        plan = installer.plan(request, Lines())
        _say(plan.line())
        return {"dry_run": True, **plan.facts()}, _words().translated("nothing was written")
    if options.collect:
        outcome = collect(request, partial(_next_medium, options.ask_from), Lines())
    else:
        outcome = installer.install(request, Lines())
    word = "is already installed" if outcome.unchanged else "is installed"
    following = outcome.next()
    if following.why:
        _say(following.why)
    _say(f"{outcome.recipe} generation {outcome.generation} {word}; next:")
    complete = {"complete": True} if options.collect else {}
    return {**outcome.facts(), **complete}, following.command


_OPTIONS: dict[str, dict[str, Any]] = {
    "--bundle": {"type": Path, "required": True, "action": "append", "help": "its folder"},
    "--collect": {"action": "store_true", "help": "take what is there; other media have the rest"},
    "--ask-from": {"type": Path, "help": "ask for the next medium; a relative one is below this"},
    "--expect": {"help": "the bundle id from the card, or its first 32 digits"},
    "--prefix": {"type": Path, "help": "where to install"},
    "--python": {"type": Path, "help": "for a bundle that carries no Python"},
    "--dry-run": {"action": "store_true", "help": "write nothing, print what would happen"},
    "--recipe": {"help": "that the bundle must contain"},
    "--trust-key": {"help": "the publisher's public key, or its fingerprint"},
    "--index": {
        "action": "append",
        "default": [],
        "help": "with the wheels left out",
    },
    "--index-host": {"action": "append", "default": [], "help": "that keeps its files"},
    "--allow-downgrade": {"action": "store_true", "help": "accept an older release"},
    "--consume": {"action": "store_true", "help": "move large files instead of copying them"},
    "--over-ssh": {"action": "store_true", "help": "the id came over ssh, with deploy"},
    "--no-downtime": {"action": "store_true", "help": "never stop a running server for GPU room"},
    "--accept-answer": {"action": "append", "default": [], "help": "a known answer may be wrong"},
    "--keep-env": {"action": "append", "default": [], "help": "a variable that install.sh kept"},
    "--json": {"action": "store_true", "help": "end with one JSON object on stdout"},
}


def _next_medium(start: Path | None, question: str) -> Path | None:
    """Ask on the terminal, whatever stdin is; None where nobody is there, or has no more."""
    try:
        if start is None:
            return None
        with Path("/dev/tty").open(encoding="utf-8", errors="surrogateescape") as terminal:
            _say(question)
            answer = terminal.readline()
    except OSError:
        return None
    return typed_folder(answer, start) if answer else None


def _incomplete(error: IncompleteError, options: _Options) -> int:
    """Say what is still to be brought; that is a failure where it is on no medium that comes."""
    if not options.collect:
        return _failure(error, as_json=options.json)
    if error.bad:
        _say(f"what to bring, to be pasted on the laptop (also in {error.kept}):")
        print(error.need.short(), file=sys.stderr)
        return _failure(error, as_json=options.json)
    if options.json:
        print(json.dumps({"schema": _SCHEMA, "kind": "install", **error.outstanding()}))
    _say("run the same command with the next medium")
    return int(ExitCode.OK)


def _failure(error: PackError, *, as_json: bool) -> int:
    _labelled("error", str(error))
    if error.hint:
        _labelled("hint", error.hint)
    if as_json:
        print(json.dumps({"schema": _SCHEMA, "kind": "error", **error.facts()}), flush=True)
    return int(error.exit_code)


def _labelled(label: str, text: str) -> None:
    _talk(f"{_words().translated(label)}: {readable(_words().translated(text))}")


def _say(text: str) -> None:
    _talk(readable(_words().translated(text)))


def _talk(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)


@cache
def _words() -> Catalogue:
    """Return the person's language, which install.sh read before it cleaned the environment."""
    words = Path(__file__).with_name("zh.toml")
    chinese = os.environ.get("CALLER_LANGUAGE") == "zh" and words.is_file()
    return read_catalogue(words) if chinese else Catalogue({})


class Lines:
    """Progress as plain lines on stderr, one now and then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._what = ""
        self._total = 0
        self._done = 0
        self._began = self._said = 0.0

    def start(self, what: str, total_bytes: int | None) -> None:
        """Begin a phase."""
        self._what = _words().translated(what)
        self._total = total_bytes or 0
        self._done = 0
        self._began = self._said = time.monotonic()

    def advance(self, size_bytes: int) -> None:
        """Count bytes."""
        with self._lock:
            self._done += size_bytes
            now = time.monotonic()
            if now - self._said >= _EVERY_S:
                self._said = now
                left_s = (self._total - self._done) * (now - self._began) / max(self._done, 1)
                left = _words().translated(f"{clock(left_s)} left")
                _talk(f"{self._what}: {self._amount()}, {left}")

    def note(self, text: str) -> None:
        """Say one line."""
        _say(text)

    def done(self) -> None:
        """End the phase with what it took."""
        amount = f", {self._amount()}" if self._done else ""
        _talk(f"{self._what}: {time.monotonic() - self._began:.1f} s{amount}")

    def _amount(self) -> str:
        rate = self._done / max(time.monotonic() - self._began, 1e-9)
        return _words().translated(f"{human_bytes(self._done)} at {human_bytes(rate)}/s")
