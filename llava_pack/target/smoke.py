"""The question that a staged generation must answer before it may become the current one."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_pack.format.errors import InstallError
from llava_pack.format.manifest import Manifest
from llava_pack.target import programs, silence

_TIMEOUT_S = 3600


def ask(
    manifest: Manifest,
    generation: Path,
    interpreter: Path,
    accepted: Sequence[str] = (),
    kept: Sequence[str] = (),
) -> dict[str, Any]:
    """Have the staged model answer the known questions, and return its report.

    Raises:
        InstallError: an answer is not the known one, or there is none.
        NetworkError: it reached for another host.
    """
    fence = silence.__file__
    command: list[str | Path] = [interpreter, "-I", fence, "llava_pack.health.smoke"]
    command += ["--manifest", generation / "MANIFEST.json"]
    command += ["--model-dir", generation / manifest.model.path]
    if manifest.model.vision_tower is not None:
        command += ["--vision-tower", generation / manifest.model.vision_tower]
    command += ["--precision", manifest.serving.precision]
    command += ["--device", manifest.serving.device, "--json"]
    command += [word for name in accepted for word in ("--accept-answer", name)]
    with tempfile.TemporaryDirectory(prefix=".smoke.", dir=generation) as home:
        said = _run(command, Path(home), kept)
    try:
        report = json.loads(said.strip().rpartition("\n")[2])
    except ValueError as error:
        message = f"smoke test: expected a JSON line, got {said[-200:]!r}"
        raise InstallError(message) from error
    if not isinstance(report, dict) or report.get("ok") is not True:
        wrong = _wrong(report)
        said = "; ".join(str(one.get("why")) for one in wrong) or f"{report!r:.400}"
        message = f"smoke test: the known answer was not given: {said}"
        raise InstallError(message, hint=_hint(wrong))
    return report


def told_of(report: Mapping[str, Any]) -> set[str]:
    """Return the names of the known answers that a report says anything of."""
    answers = (one for one in report.get("answers", ()) if isinstance(one, dict))
    return {str(one.get("name")) for one in answers}


def _run(command: Sequence[str | Path], home: Path, kept: Sequence[str]) -> str:
    try:
        return programs.run(
            command, what="smoke test", scratch=home, timeout_s=_TIMEOUT_S, kept=kept
        )
    except InstallError as error:
        if "unrecognized arguments: --accept-answer" not in error.message:
            raise
        raise InstallError(
            "the bundle is too old for it",
            subject="--accept-answer",
            hint="build the bundle again with this llava-pack, or leave the option out",
        ) from error


def _wrong(report: Any) -> list[dict[str, Any]]:
    """Return the answers that are wrong and not accepted."""
    answers = report.get("answers", ()) if isinstance(report, dict) else ()
    failed = [one for one in answers if isinstance(one, dict) and one.get("ok") is False]
    return [one for one in failed if not one.get("accepted")]


def _hint(wrong: Sequence[dict[str, Any]]) -> str:
    """Return the way out; where the computation itself differs, no person's word makes it right."""
    if any(one.get("stage") for one in wrong):
        return (
            "the computation differs from the recorded one, which no option accepts: install the "
            "bundle again; nvidia-smi -q shows a GPU that fails"
        )
    names = " ".join(f"--accept-answer {one.get('name')}" for one in wrong)
    return f"if that is right for this model: the same command with {names}" if names else ""
