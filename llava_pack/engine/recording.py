"""Record what a model answers to its known questions: `python -m llava_pack.engine.recording`.

`build` runs this as a process of its own, so that the memory of a model is given back. One JSON
object on the last line of stdout.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from llava_pack.engine import environment
from llava_pack.engine.load import DEVICES, PRECISIONS, load_engine
from llava_pack.engine.port import Delta, Engine, EngineInfo, Failed, Finished, Request
from llava_pack.engine.questions import question
from llava_pack.format import records
from llava_pack.format.errors import IntegrityError, PackError
from llava_pack.format.manifest import KnownAnswer, Reference

_MICRO = 1_000_000
_LIBRARIES = ("torch", "transformers", "bitsandbytes")

Recorded = Literal["build", "install", "recipe", "now"]


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
                return _reference(engine, request, deltas, recorded), event


def _reference(
    engine: Engine, request: Request, deltas: Sequence[Delta], recorded: Recorded
) -> Reference:
    odds = [one for delta in deltas for one in delta.odds]
    trace = engine.trace(request)
    return Reference(
        answer=request.request_id,
        precision=engine.info.precision,
        made_on=made_on(engine.info),
        recorded=recorded,
        text="".join(delta.text for delta in deltas),
        prompt=trace.prompt,
        words=trace.words,
        pixels=trace.pixels,
        tower=tuple(f"{value:.6g}" for value in trace.tower),
        projector=tuple(f"{value:.6g}" for value in trace.projector),
        token_ids=tuple(token for delta in deltas for token in delta.token_ids),
        likeliest=tuple(tuple(one.token_id for one in step.likeliest) for step in odds),
        micronats=tuple(
            tuple(round(max(0.0, -one.logprob) * _MICRO) for one in step.likeliest) for step in odds
        ),
    )


def made_on(info: EngineInfo) -> str:
    """Return the kind of device and the libraries: where they are equal, so are the bits."""
    versions = [f"{name} {_version(name)}" for name in _LIBRARIES]
    return ", ".join([_device(info.device), *versions])


def _device(device: str) -> str:
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    if device == "cpu":
        kind = torch.backends.cpu.get_cpu_capability()
        flags = Path("/proc/cpuinfo")
        text = flags.read_text(errors="replace") if flags.is_file() else ""
        return f"cpu {kind}{' bf16' if 'avx512_bf16' in text else ''}"
    return device


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


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
    engine = load_engine(
        given.model_dir,
        vision_tower=given.vision_tower,
        model_base=given.model_base,
        precision=precision,
        device=given.device,
        slots=1,
        context_tokens=given.context_tokens,
        conv_mode=given.conv_mode,
    )
    return [observe(engine, one, "build")[0] for one in known]


def _read_known(path: Path) -> tuple[KnownAnswer, ...]:
    defects = records.Defects()
    values = json.loads(path.read_bytes())
    found = [records.decode(KnownAnswer, value, defects) for value in values]
    if defects:
        raise IntegrityError("; ".join(defects), subject=path.name)
    return tuple(one for one in found if one is not None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava_pack.engine.recording", description=__doc__)
    parser.add_argument("--known", type=Path, required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--vision-tower", type=Path)
    parser.add_argument("--model-base", type=Path)
    parser.add_argument("--precision", choices=PRECISIONS, action="append", required=True)
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--context-tokens", type=int)
    parser.add_argument("--conv-mode")
    return parser


if __name__ == "__main__":
    sys.exit(main())
