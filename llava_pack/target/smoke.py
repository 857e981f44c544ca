"""The question that a staged generation must answer before it may become the current one."""

import json
import tempfile
from pathlib import Path
from typing import Any

from llava_pack.format.errors import InstallError
from llava_pack.format.manifest import Manifest
from llava_pack.target import programs, silence

_TIMEOUT_S = 3600


def ask(manifest: Manifest, generation: Path, interpreter: Path) -> dict[str, Any]:
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
    with tempfile.TemporaryDirectory(prefix=".smoke.", dir=generation) as home:
        said = programs.run(command, what="smoke test", scratch=Path(home), timeout_s=_TIMEOUT_S)
    try:
        report = json.loads(said.strip().rpartition("\n")[2])
    except ValueError as error:
        message = f"smoke test: expected a JSON line, got {said[-200:]!r}"
        raise InstallError(message) from error
    if not isinstance(report, dict) or report.get("ok") is not True:
        raise InstallError(f"smoke test: the known answer was not given: {report!r:.400}")
    return report
