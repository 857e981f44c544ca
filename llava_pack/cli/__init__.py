"""The command line: one module a command, and the boundary where errors become exit codes."""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from llava_pack.cli import console
from llava_pack.cli.language import language_of
from llava_pack.format.errors import PackError
from llava_pack.format.exit_codes import ExitCode

_BUG = "this is a bug in llava-pack: please report the lines above"
_REINSTALL = "a package is missing or damaged: reinstall the bundle or llava-pack"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    console.settle()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    try:
        result = _run(arguments)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # which typer ends with 1
            return _closed_pipe()
        return _exit_status(ended.code)
    except PackError as error:
        return _failed(error, arguments)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return _closed_pipe()
    except Exception as error:  # noqa: BLE001 - the boundary: a bug gets its own exit code
        said = traceback.format_exc()
        console.say(said.rstrip())
        hint = _REINSTALL if isinstance(error, ImportError) else _BUG
        return _failed(PackError(f"{type(error).__name__}: {error}", hint=hint), arguments, said)
    return result if isinstance(result, int) else int(ExitCode.OK)


def _closed_pipe() -> int:
    """Return the exit code for a reader that has seen enough, such as `head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(ExitCode.OK)


def _run(arguments: list[str]) -> Any:
    from llava_pack.cli.app import app

    if language_of(os.environ) == "en":
        return app(args=arguments, prog_name="llava-pack", standalone_mode=True)
    from llava_pack.cli import help_pages

    return help_pages.run(app, arguments)


def _failed(error: PackError, arguments: Sequence[str], said: str = "") -> int:
    """Show an error and return its exit code; `health` could then not find out: UNKNOWN."""
    as_json = "--json" in arguments
    if arguments[:1] != ["health"]:
        console.failure(error, as_json=as_json)
        _name_known(f"{said}{error}\n{error.hint}")
        return int(error.exit_code)
    from llava_pack.health.report import Layer, Report, nagios_line, to_json

    console.failure(error)
    finding = Layer.ENVIRONMENT.unknown(str(error), fix=error.hint)
    report = Report(findings=(finding,), metrics=(), took_s=0.0)
    if as_json:
        console.document("health", to_json(report))
    else:
        console.verbatim(nagios_line(report))
    return int(report.code)


def _name_known(text: str) -> None:
    """Say which known failures an error shows, and how to read about them."""
    from llava_pack.health.knowledge import known_failures, recognise

    language = language_of(os.environ)
    for failure in recognise(text, known_failures()):
        console.say(f"known: {failure.advice[language].title}: llava-pack explain {failure.id}")


def _exit_status(code: object) -> int:
    if code is None:
        return int(ExitCode.OK)
    return code if isinstance(code, int) else int(ExitCode.BUG)
