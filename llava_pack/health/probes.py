"""Probes of an installed environment. Each has its time-out; none writes.

Packages are imported where they are used: one that is missing fails its own check alone.
"""

import json
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from llava_pack.format.manifest import Manifest
from llava_pack.health.facts import EnvironmentFacts
from llava_pack.runtimes import RUNTIMES
from llava_pack.target import venv
from llava_pack.target.store import Store

if TYPE_CHECKING:
    from llava_pack.installation.installed import Installation

_VERSIONS_WITHIN_S = 20.0
_IMPORTS_WITHIN_S = 180.0
_HASHES_WITHIN_S = 600.0
_NEEDED = {
    "torch": "torch",
    "transformers": "transformers",
    "bitsandbytes": "bitsandbytes",
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "llguidance": "llguidance",
    "gradio": "gradio",
    "llava.model.builder": "llava-torch",
    "llava_pack.cli": "llava-pack",
    **{one.profile.package: one.profile.package for one in RUNTIMES.values() if one.profile},
}
"""Modules that serving imports, and the distributions that bring them: a runtime has its own."""
_VERSIONS = (
    "import importlib.metadata as m, json, platform\n"
    "found = {d.metadata['Name']: d.version for d in m.distributions()}\n"
    "print(json.dumps({'python': platform.python_version(), 'found': found}))\n"
)
_IMPORTS = (
    "import importlib, json, os, sys\n"
    "os.environ.update(HF_HUB_OFFLINE='1', GRADIO_ANALYTICS_ENABLED='False')\n"
    "failed = {}\n"
    "for name in sys.argv[1:]:\n"
    "    try: importlib.import_module(name)\n"
    "    except Exception as e: failed[name] = f'{type(e).__name__}: {e}'[:300]\n"
    "print(json.dumps(failed))\n"
)
_CHANGED = """
import base64, hashlib, importlib.metadata, json
def right(file):
    try:
        with open(file.locate(), "rb") as stream:
            digest = hashlib.file_digest(stream, file.hash.mode).digest()
    except OSError:
        return False
    return base64.urlsafe_b64encode(digest).decode().rstrip("=") == file.hash.value
files = [file for one in importlib.metadata.distributions() for file in one.files or ()]
print(json.dumps([str(file) for file in files if file.hash and not right(file)]))
"""
"""Source: packaging.python.org, "Recording installed projects", the RECORD file."""


def probe_environment(python: Path, wanted: Mapping[str, str], *, deep: bool) -> EnvironmentFacts:
    """Return what an environment holds.

    Args:
        python: its interpreter.
        wanted: versions by normalised name.
        deep: also hash the installed files and import what serving needs.
    """
    from packaging.utils import canonicalize_name

    try:
        said = json.loads(_run(python, _VERSIONS, (), _VERSIONS_WITHIN_S))
    except (OSError, ValueError, subprocess.SubprocessError):
        return EnvironmentFacts(python="", wanted=wanted, found={})
    found = {str(canonicalize_name(name)): str(said["found"][name]) for name in said["found"]}
    failed: Mapping[str, str] = {}
    changed: tuple[str, ...] = ()
    if deep:
        changed = tuple(json.loads(_run(python, _CHANGED, (), _HASHES_WITHIN_S)))
        needed = tuple(module for module, name in _NEEDED.items() if name in wanted)
        try:
            failed = json.loads(_run(python, _IMPORTS, needed, _IMPORTS_WITHIN_S))
        except subprocess.TimeoutExpired:
            failed = {", ".join(needed): f"not within {_IMPORTS_WITHIN_S:.0f} s"}
        except (ValueError, subprocess.SubprocessError) as error:
            failed = {", ".join(needed): f"the interpreter ended: {error}"[:300]}
    return EnvironmentFacts(
        python=said["python"],
        wanted=wanted,
        found=found,
        changed=changed,
        failed_imports=failed,
    )


def environments(item: "Installation") -> dict[Path, dict[str, str]]:
    """Return the versions that each environment should have by normalised name, by its Python."""
    pythons = venv.interpreters(item.manifest, item.root)
    if len(pythons) == 1:
        return {item.venv_python: _versions_of(item.manifest)}
    store = Store(item.prefix)
    digests = {entry.path: entry.sha256 for entry in item.manifest.under("lock")}
    return {
        python: _locked(store.path(digests[lock]).read_text(encoding="utf-8"))
        for lock, python in pythons.items()
    }


def _locked(text: str) -> dict[str, str]:
    return {one["name"]: one["version"] for one in tomllib.loads(text)["packages"]}


def _versions_of(manifest: Manifest) -> dict[str, str]:
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    versions = {}
    for entry in manifest.under("wheels"):
        try:
            name, version, _, _ = parse_wheel_filename(entry.path.rpartition("/")[2])
        except InvalidWheelFilename:
            continue
        versions[str(name)] = str(version)
    return versions


def _run(python: Path, program: str, arguments: tuple[str, ...], timeout_s: float) -> str:
    done = subprocess.run(
        [str(python), "-I", "-B", "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=True,
        cwd="/",
    )
    return done.stdout.strip().rpartition("\n")[2]
