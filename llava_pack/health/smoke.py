"""Load a model and ask it the known answers: `python -I -m llava_pack.health.smoke`.

The installer runs this with a staged generation's own interpreter before that may become the
current one. One JSON object on the last line of stdout, whose `ok` says whether every
answer is the known one or was accepted. Exit code 1 where nothing could be asked.
"""

import argparse
import importlib
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_pack.engine import environment
from llava_pack.engine.known.recording import observe
from llava_pack.engine.loading.load import load_engine
from llava_pack.engine.loading.options import DEVICES
from llava_pack.engine.port import Engine
from llava_pack.format.errors import InstallError, PackError, UsageError, reason_of
from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.format.manifest import parse_manifest
from llava_pack.format.precision import DEFAULT_PRECISION, PRECISION_CHOICES
from llava_pack.health.engine_import import try_engine
from llava_pack.health.grading import judge
from llava_pack.health.runtimes import serving_runtime
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.supervision.gateway_process import GATEWAY_PROGRAM

_SCHEMA = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the smoke test and return the exit code."""
    given = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    environment.prepare()
    try:
        report = accepting(run(given), given.accept_answer)
    except PackError as error:
        failure = {"kind": error.kind, "message": str(error), "hint": error.hint}
        report = {"ok": False, "answers": [], "error": failure}
    _tell(report, as_json=given.json)
    return 1 if "error" in report else 0


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Return the report of one smoke test.

    Raises:
        PackError: the manifest or the model cannot be read.
    """
    try:
        manifest = parse_manifest(given.manifest.read_bytes())
    except OSError as error:
        why = reason_of(error)
        raise UsageError(f"cannot be read: {why}", subject=str(given.manifest)) from error
    if (other := serving_runtime(manifest.serving.engine)) is not None:
        found = other.smoke(manifest, given.model_dir, given.precision, given.device)
        return {"schema": _SCHEMA, "kind": "smoke", **found}
    _import_gateway()
    if (profile := RUNTIMES[manifest.serving.engine].profile) is not None:
        where = given.manifest.parent
        found = try_engine(manifest, where, profile, given.precision, given.device)
        asked = [{"name": name, "ok": False, "accepted": True} for name in given.accept_answer]
        return {"schema": _SCHEMA, "kind": "smoke", **found, "answers": asked}
    began_s = time.monotonic()
    engine = load_engine(
        given.model_dir,
        vision_tower=given.vision_tower,
        precision=given.precision,
        device=given.device,
        slots=1,
        context_tokens=manifest.serving.context_tokens,
        conv_mode=manifest.model.conv_mode,
    )
    load_s = time.monotonic() - began_s
    answers = [_ask(engine, one, manifest.references) for one in manifest.known_answers]
    return {
        "schema": _SCHEMA,
        "kind": "smoke",
        "ok": all(answer["ok"] for answer in answers),
        "precision": engine.info.precision,
        "device": engine.info.device,
        "load_s": round(load_s, 3),
        "answers": answers,
    }


def _import_gateway() -> None:
    """Import what answers requests, as a process of `serve` will, whatever is broken in it.

    Raises:
        InstallError: it cannot be imported.
    """
    try:
        importlib.import_module(GATEWAY_PROGRAM[-1])
    except Exception as error:
        raise InstallError(
            f"the gateway cannot be imported: {type(error).__name__}: {error}",
            hint="build the bundle again, so that its packages fit together",
        ) from error


def accepting(report: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a report in which wrong words of the named known answers are no failure.

    Where the computation itself differs from the recorded one (`stage`), it stays one.
    """
    answers = [
        {**one, "accepted": True}
        if not one["ok"] and one["name"] in names and not one.get("stage")
        else one
        for one in report["answers"]
    ]
    if all(one["ok"] for one in answers):
        return report
    passed = all(one["ok"] or one.get("accepted") for one in answers)
    page = report.get("page", {"ok": True})  # LLaVA's own runtime has one to look at
    return {**report, "answers": answers, "ok": passed and page["ok"]}


def _ask(engine: Engine, known: KnownAnswer, references: Sequence[Reference]) -> dict[str, Any]:
    seen, end = observe(engine, known)
    found = judge(known, references, seen)
    decode_s = end.timings.total_s - end.timings.first_token_s
    return {
        "name": known.name,
        "ok": found.level != "broken",
        "grade": found.level,
        "stage": found.stage,
        "reference": found.reference,
        "why": found.why,
        "text": seen.text,
        "tokens": end.usage.completion_tokens,
        "ttft_s": round(end.timings.first_token_s, 4),
        "tokens_per_s": round((end.usage.completion_tokens - 1) / decode_s, 2)
        if decode_s
        else None,
    }


def _tell(report: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(report) + "\n")
    elif "error" in report:
        sys.stdout.write(f"failed: {report['error']['message']}\n")
    for answer in () if as_json else report["answers"]:
        said = f"{answer['name']}: {answer['text']!r}"
        sys.stdout.write(f"{'ok' if answer['ok'] else 'wrong'}: {said}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava_pack.health.smoke", description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--vision-tower", type=Path)
    parser.add_argument("--precision", choices=PRECISION_CHOICES, default=DEFAULT_PRECISION)
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--accept-answer", action="append", default=[], metavar="NAME")
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
