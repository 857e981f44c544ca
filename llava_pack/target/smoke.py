"""The question that a staged generation must answer before it may become the current one."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_pack.format.errors import InstallError
from llava_pack.format.manifest import Manifest
from llava_pack.target import programs, silence

_TIMEOUT_S = 3600


def ask(
    manifest: Manifest, generation: Path, interpreter: Path, accepted: Sequence[str] = ()
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
        said = programs.run(command, what="smoke test", scratch=Path(home), timeout_s=_TIMEOUT_S)
    try:
        report = json.loads(said.strip().rpartition("\n")[2])
    except ValueError as error:
        message = f"smoke test: expected a JSON line, got {said[-200:]!r}"
        raise InstallError(message) from error
    if not isinstance(report, dict) or report.get("ok") is not True:
        wrong = _wrong(report)
        said = "; ".join(wrong.values()) or f"{report!r:.400}"
        names = " ".join(f"--accept-answer {name}" for name in wrong)
        raise InstallError(
            f"smoke test: the known answer was not given: {said}",
            hint=f"if that is right for this model: the same command with {names}" if names else "",
        )
    return report


def _wrong(report: Any) -> dict[str, str]:
    """Return what was answered wrongly, by name, as far as a person may accept it."""
    answers = report.get("answers", ()) if isinstance(report, dict) else ()
    failed = [one for one in answers if isinstance(one, dict) and one.get("ok") is False]
    return {str(one.get("name")): str(one.get("why")) for one in failed if not one.get("accepted")}
