"""The command line: one module a command, and the boundary where errors become exit codes."""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence

from llava_pack.cli import console
from llava_pack.format.errors import PackError
from llava_pack.format.exit_codes import ExitCode


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    from llava_pack.cli.app import app

    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    try:
        result = app(args=arguments, prog_name="llava-pack", standalone_mode=True)
    except SystemExit as ended:
        return _exit_status(ended.code)
    except PackError as error:
        console.failure(error, as_json="--json" in arguments)
        _name_known(f"{error}\n{error.hint}")
        return int(error.exit_code)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)
    except Exception as error:  # noqa: BLE001 - the boundary: a bug gets its own exit code
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        hint = "this is a bug in llava-pack: please report the lines above"
        console.failure(PackError(message, hint=hint))
        _name_known(traceback.format_exc())
        return int(ExitCode.BUG)
    return result if isinstance(result, int) else int(ExitCode.OK)


def _name_known(text: str) -> None:
    """Say which known failures an error shows, and how to read about them."""
    from llava_pack.health.knowledge import known_failures, language_of, recognise

    language = language_of(os.environ)
    for failure in recognise(text, known_failures()):
        console.say(f"known: {failure.advice[language].title}: llava-pack explain {failure.id}")


def _exit_status(code: object) -> int:
    if code is None:
        return int(ExitCode.OK)
    return code if isinstance(code, int) else int(ExitCode.BUG)
