"""The Python world of a generation: interpreter and venvs, from the store, offline.

An engine of the field has a venv of its own, `engine`, beside that of llava-pack.
"""

import os
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_pack.format import files
from llava_pack.format.errors import InstallError
from llava_pack.format.manifest import Manifest
from llava_pack.format.sums import ENGINE_LOCK, LOCK
from llava_pack.target import disk, programs
from llava_pack.target.store import Store

UV = "runtime/uv"
LOCKS = {"venv": LOCK, "engine": ENGINE_LOCK}  # by the folder that it is installed into
SCRATCH = ".build"  # what uv needs, of no use once the venv is made
_TIMEOUT_S = 1800


def host_python(chosen: Path | None) -> Path:
    """Return the interpreter for a bundle without its own: the chosen one, or the running one."""
    running = getattr(sys, "_base_executable", None) or sys.executable
    return (chosen or Path(running)).absolute()


def host_version(python: Path) -> str | None:
    """Return the version of an interpreter as it says itself, None where it does not run."""
    question = "import platform; print(platform.python_version())"
    text = programs.answer([str(python), "-I", "-S", "-B", "-c", question])
    return text.strip() if text else None


def unpack_python(manifest: Manifest, store: Store, generation: Path) -> Path | None:
    """Unpack the interpreter that the bundle carries; None where it carries none.

    Raises:
        InstallError: the archive holds no interpreter, or a name that leaves its folder.
    """
    archive = manifest.python.path
    if archive is None:
        return None
    digest = next(entry.sha256 for entry in manifest.files if entry.path == archive)
    try:
        with tarfile.open(store.path(digest), "r:gz") as members:
            # Python 3.11.0 to 3.11.3 has no filters; the archive is as verified as this code
            members.extraction_filter = getattr(tarfile, "data_filter", None)
            members.extractall(generation)  # noqa: S202
    except tarfile.TarError as error:
        raise InstallError(f"{archive}: cannot be unpacked: {error}") from error
    python = generation / "python" / "bin" / "python3"
    if not os.access(python, os.X_OK):
        raise InstallError(f"{archive}: expected python/bin/python3, got no such program")
    return python


def build(
    manifest: Manifest, store: Store, generation: Path, python: Path, kept: Sequence[str] = ()
) -> Path:
    """Make the venvs on `python` with the bundle's uv, and return llava-pack's interpreter.

    What both have is unpacked once: it is linked out of uv's cache, which is in the scratch.

    Raises:
        InstallError: uv failed, with what it said.
    """
    scratch = generation / SCRATCH
    for entry in manifest.files:
        if entry.path in {UV, *LOCKS.values()} or entry.path.startswith("wheels/"):
            disk.link_or_copy(store.path(entry.sha256), scratch / entry.path)
    uv: list[str | Path] = [scratch / UV, "--no-config", "--offline", "--no-progress"]
    create = ["venv", "--relocatable", "--no-python-downloads"]
    sync = ["--preview-features", "pylock", "pip", "sync", "--require-hashes", "--no-build"]
    sync += ["--no-index", "--link-mode", "hardlink", "--python"]
    how: dict[str, Any] = {"scratch": scratch, "timeout_s": _TIMEOUT_S, "kept": kept}
    made = interpreters(manifest, generation)
    for lock, interpreter in made.items():
        venv = interpreter.parent.parent
        programs.run([*uv, *create, "--python", python, venv], what="creating the venv", **how)
        settle(generation)
        programs.run([*uv, *sync, interpreter, scratch / lock], what="installing the wheels", **how)
        (venv / ".lock").unlink(missing_ok=True)  # uv's own, which everybody may write
    return made[LOCK]


def interpreters(manifest: Manifest, generation: Path) -> dict[str, Path]:
    """Return the interpreter of each venv that a bundle has a lock for, by the lock's path."""
    paths = {entry.path for entry in manifest.files}
    named = {lock: name for name, lock in LOCKS.items() if lock in paths}
    return {lock: generation / name / "bin" / "python" for lock, name in named.items()}


def settle(generation: Path) -> None:
    """Have the venvs find the Python that was unpacked beside them, wherever they are now.

    Their links are relative from then on; only `home` is a path. Source: PEP 405, pyvenv.cfg.
    """
    for name in LOCKS:
        if name == "venv" or (generation / name).exists():
            _settle(generation, generation / name)


def _settle(generation: Path, venv: Path) -> None:
    config = venv / "pyvenv.cfg"
    within = "/".join(("", *generation.parts[-4:], "python", "bin"))
    lines = config.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    home = next((line for line in lines if line.partition("=")[0].strip() == "home"), "")
    if not home.endswith(within):
        return  # a Python of the machine
    right = f"home = {os.path.realpath(generation / 'python' / 'bin')}"
    link = venv / "bin" / "python"
    if link.readlink().is_absolute():
        disk.point(link, f"../../python/bin/{link.readlink().name}")
    if home != right:
        lines[lines.index(home)] = right
        text = "\n".join([*lines, ""])
        files.write(config, text.encode("utf-8", "surrogateescape"), 0o644)
