"""`llava-pack logs`: what `serve` and its engines wrote down."""

import contextlib
import os
import time
from pathlib import Path
from typing import Annotated, TextIO

import typer

from llava_pack.cli import console
from llava_pack.format.errors import ServeError
from llava_pack.serve.access.audit import NAME as AUDIT_NAME
from llava_pack.serve.logfile import NAME, last_lines, log_path
from llava_pack.serve.origin import start_command
from llava_pack.serve.run_state import directories, running

_LOOK_EVERY_S = 0.3


def logs(
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, help="Number of last lines to print.")
    ] = 50,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Follow the log until Ctrl-C.")
    ] = False,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit", help="Show the audit log: one JSON line per request, with its key."
        ),
    ] = False,
) -> None:
    """Show the log of `serve`: requests, engines, errors.

    It contains when each request arrived and how it ended, and the output of the engines; never
    questions, answers or pictures. Times are UTC.

    \b
    Examples:
      llava-pack logs
      llava-pack logs -n 500
      llava-pack logs --follow
      llava-pack logs --audit -n 1000
    """
    path = _path(AUDIT_NAME if audit else NAME)
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in last_lines(path, stream, lines):
            console.verbatim(line)
        if follow:
            _follow(path, stream)


def _path(name: str) -> Path:
    """Return the log of the server that runs, else the one that the next would write."""
    kept = [Path(server.log).with_name(name) for server in running() if server.log]
    kept += [log_path(directory).with_name(name) for directory in directories()]
    for path in kept:
        if path.is_file():
            return path
    raise ServeError("no server has run here yet", subject=str(kept[0]), hint=start_command())


def _follow(path: Path, stream: TextIO) -> None:
    """Print lines as they come, also from a file that was begun anew."""
    with contextlib.ExitStack() as opened:
        while True:
            if line := stream.readline():
                console.stream(line)
            elif path.is_file() and path.stat().st_ino != os.fstat(stream.fileno()).st_ino:
                stream = opened.enter_context(path.open(encoding="utf-8", errors="replace"))
            else:
                time.sleep(_LOOK_EVERY_S)
