"""Record what a model answers: `python -m llava_pack.engine.known.recording`.

`build` runs this as a process of its own, so that the memory of a model is given back. One JSON
object on the last line of stdout.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava_pack.engine import environment
from llava_pack.engine.known.questions import Recorded, answer_of, question
from llava_pack.engine.loading.load import load_engine
from llava_pack.engine.loading.options import add_arguments, given_options
from llava_pack.engine.port import Delta, Engine, Failed, Finished
from llava_pack.format import records
from llava_pack.format.errors import IntegrityError, PackError
from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.format.precision import PRECISION_CHOICES


def observe(
    engine: Engine, known: KnownAnswer, recorded: Recorded = "now"
) -> tuple[Reference, Finished]:
    """Ask an idle engine a known question and return what it answered, with the timings.

    Raises:
        PackError: the engine could not answer, with its own error.
    """
    request = question(known)
    engine.submit(request)
    deltas: list[Delta] = []
    while True:
        for event in engine.step():
            if isinstance(event, Delta):
                deltas.append(event)
            elif isinstance(event, Failed):
                raise event.error()
            elif isinstance(event, Finished):
                answered = answer_of(engine.info, request, deltas, engine.trace(request))
                return replace(answered, recorded=recorded), event


def main(argv: Sequence[str] | None = None) -> int:
    """Record in every precision that is asked for, and return the exit code."""
    given = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    environment.prepare()
    try:
        known = _read_known(given.known)
        found = [one for precision in given.precision for one in _record(given, precision, known)]
        said: dict[str, Any] = {"references": [records.encode(one) for one in found]}
        code = 0
    except PackError as error:
        said, code = {"error": str(error)}, int(error.exit_code)
    sys.stdout.write(json.dumps(said) + "\n")
    return code


def _record(
    given: argparse.Namespace, precision: str, known: Sequence[KnownAnswer]
) -> list[Reference]:
    options = {**given_options(given), "precision": precision, "slots": 1}
    engine = load_engine(given.model_dir, **options)
    return [observe(engine, one, "build")[0] for one in known]


def _read_known(path: Path) -> tuple[KnownAnswer, ...]:
    defects = records.Defects()
    values = json.loads(path.read_bytes())
    found = [records.decode(KnownAnswer, value, defects) for value in values]
    if defects:
        raise IntegrityError("; ".join(defects), subject=path.name)
    return tuple(one for one in found if one is not None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava_pack.engine.known.recording", description=__doc__)
    add_arguments(parser, device="cpu")
    parser.add_argument("--known", type=Path, required=True)
    parser.add_argument("--precision", choices=PRECISION_CHOICES, action="append", required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
