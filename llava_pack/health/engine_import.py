"""What is tried of an engine of the field while its bundle is installed: that it can be imported.

Its answers are held against the known ones when it is served, before anybody else is answered.
"""

import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_pack.format.errors import InstallError, NetworkError
from llava_pack.format.manifest import Manifest
from llava_pack.format.sums import ENGINE_LOCK
from llava_pack.profiles.profile import Profile
from llava_pack.target import silence, venv

_WITHIN_S = 600.0  # an engine reads some GB of libraries, perhaps from a slow disk
_LINES = 3
_IMPORT = """
import importlib, runpy, sys
runpy.run_path(sys.argv[1])["fence"]()
importlib.import_module(sys.argv[2])
"""


def try_engine(
    manifest: Manifest, generation: Path, profile: Profile, precision: str, device: str
) -> Mapping[str, Any]:
    """Import an engine in its own environment, fenced, and return the report.

    Raises:
        InstallError: it cannot be imported, with the end of what it said.
        NetworkError: it reached for another host.
    """
    python = venv.interpreters(manifest, generation)[ENGINE_LOCK]
    began_s = time.monotonic()
    command = [str(python), "-I", "-c", _IMPORT, silence.__file__, profile.package]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_WITHIN_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(profile, str(error)) from error
    if done.returncode == silence.REACHED_OUT:
        raise NetworkError(done.stderr.strip().rpartition("\n")[2], subject=profile.package)
    if done.returncode != 0:
        raise _failed(profile, " | ".join(done.stderr.strip().splitlines()[-_LINES:]))
    return {
        "ok": True,
        "precision": precision,
        "device": device,
        "load_s": round(time.monotonic() - began_s, 3),
    }


def _failed(profile: Profile, why: str) -> InstallError:
    return InstallError(
        f"the engine cannot be imported: {why}",
        subject=profile.package,
        hint="build the bundle again, so that its packages fit together",
    )
