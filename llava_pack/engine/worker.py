"""One model's engine process: `python -I -m llava_pack.engine.worker --model-dir D --socket S`.

Its log goes to stderr; nothing is said on stdout. The exit code is the error's, see
`llava_pack.format.exit_codes`; what went wrong is also told to whoever is connected.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_pack.engine import environment
from llava_pack.engine.fence.value import MODES
from llava_pack.engine.loading.load import load_engine
from llava_pack.engine.loading.options import DEFAULT_SLOTS, add_arguments, given_options
from llava_pack.engine.port import Engine
from llava_pack.engine.process import process
from llava_pack.engine.process.enclosure import Enclosure
from llava_pack.format.errors import PackError
from llava_pack.format.exit_codes import ExitCode
from llava_pack.format.precision import PRECISION_CHOICES
from llava_pack.format.progress import Progress

_log = logging.getLogger("llava_pack.engine")


def main(argv: Sequence[str] | None = None) -> int:
    """Load a model and serve it until told to end; return the exit code."""
    given = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    environment.prepare()

    enclosure = Enclosure(
        given.model_dir,
        tower=given.vision_tower,
        base=given.model_base,
        choice=given.tower,
        home=given.socket.absolute().with_suffix(".home"),
        device=given.device,
        mode=given.fence,
    )

    def load(progress: Progress) -> Engine:
        return enclosure.load(
            lambda: load_engine(given.model_dir, progress=progress, **given_options(given))
        )

    try:
        code = process.run(load, given.socket, drain_s=given.drain_s, fence=enclosure.enter)
    except PackError as error:
        _log.error("%s", error)
        code = int(error.exit_code)
    except KeyboardInterrupt:
        code = int(ExitCode.OK)
    logging.shutdown()
    # A step that is still running must not keep a process that was told to end.
    os._exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava_pack.engine.worker", description=__doc__)
    add_arguments(parser, device="auto")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--precision", choices=PRECISION_CHOICES, default="auto")
    parser.add_argument("--slots", type=int, default=DEFAULT_SLOTS)
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--drain-s", type=float, default=30.0)
    parser.add_argument("--fence", choices=MODES, default="on")
    return parser


if __name__ == "__main__":
    sys.exit(main())
