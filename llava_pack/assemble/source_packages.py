"""Packages that are published only as source: named, and built here where they are pure Python.

Building runs the package's own build code on this machine, as pip would. Nothing is built that
holds code of another language, or whose build is its own program.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from uv import find_uv_bin

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.credentials import Credentials
from llava_pack.fetch.download import download_all
from llava_pack.fetch.remote import RemoteFile, Sha256
from llava_pack.format import files
from llava_pack.format.errors import RecipeError
from llava_pack.format.progress import Progress
from llava_pack.lock.indexes import Indexes
from llava_pack.lock.platform import Platform
from llava_pack.lock.pylock import LockedSource, LockedWheel
from llava_pack.lock.resolve import SourceOnlyError, find_sources
from llava_pack.network.front import read_front

_TIMEOUT_S = 300
_BACKENDS = ("hatchling", "flit_core", "poetry.core", "pdm.backend", "setuptools")
"""Well-kept build backends that make the same wheel from the same source."""
_LEGACY = "setuptools"
_OTHER_CODE = frozenset({".a", ".c", ".cc", ".cpp", ".cu", ".cxx", ".dll", ".dylib", ".f", ".f90"})
_OTHER_CODE |= {
    ".go",
    ".h",
    ".hpp",
    ".m",
    ".o",
    ".pxd",
    ".pyd",
    ".pyx",
    ".rs",
    ".so",
    ".swift",
    ".zig",
}
_OTHER_BUILDS = frozenset({"CMakeLists.txt", "Cargo.toml", "configure", "meson.build"})
_TEXT_BYTES = 1 << 20
_RELEASE = "315532800"
"""1980: what a built wheel is dated with. Source: reproducible-builds.org, SOURCE_DATE_EPOCH."""
_HINT = (
    "narrow the requirement to a version with wheels, or put a wheel of it in a find-links folder"
)


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What building a source package takes."""

    platform: Platform
    cache: Cache
    progress: Progress
    exclude_newer: str | None = None


def resolve_with_sources(
    ask: Callable[[tuple[str, ...]], tuple[LockedWheel, ...]],
    requirements: Sequence[str],
    indexes: Indexes,
    workshop: Workshop,
) -> tuple[LockedWheel, ...]:
    """Return the wheels that `ask` resolves, pure Python sources built into wheels for it.

    Raises:
        RecipeError: a package is published only as source and cannot be built safely.
    """
    built: dict[str, LockedWheel] = {}
    while True:
        own = (f"{name} @ {wheel.url}" for name, wheel in built.items())
        try:
            wheels = ask((*requirements, *own))
            break
        except SourceOnlyError as error:
            new = [name for name in error.packages if name not in built]
            if not new:
                raise
            for name in new:
                built[name] = _build_newest(name, requirements, indexes, workshop)
    by_digest = {wheel.sha256: wheel for wheel in built.values()}
    return tuple(by_digest.get(wheel.sha256, wheel) for wheel in wheels)


def _build_newest(
    name: str, requirements: Sequence[str], indexes: Indexes, workshop: Workshop
) -> LockedWheel:
    wanted = [one for one in requirements if canonicalize_name(Requirement(one).name) == name]
    newer = workshop.exclude_newer
    found = find_sources(wanted or [name], workshop.platform, indexes, exclude_newer=newer)
    if not found:
        raise RecipeError("has neither a wheel nor sources", subject=name, hint=_HINT)
    return build_source(found[0], indexes, workshop)


def build_source(source: LockedSource, indexes: Indexes, workshop: Workshop) -> LockedWheel:
    """Return the wheel of a source archive, built once and kept in the cache's folder.

    Raises:
        RecipeError: it is not pure Python, or its build fails.
        PackError: what fetching raises.
    """
    place = workshop.cache.root / "built" / source.sha256
    found = next(iter(sorted(place.glob("*.whl"))), None)
    if found is None:
        archive = _fetch(source, indexes, workshop)
        if defect := not_pure(archive):
            raise RecipeError(
                f"published only as source, and {defect}: not built here",
                subject=f"{source.name} {source.version}",
                hint=_HINT,
            )
        told = "pure Python, published only as source: building a wheel here"
        workshop.progress.note(f"! {source.name} {source.version}: {told}")
        found = _build(archive, source, place, indexes)
    return LockedWheel(
        name=source.name,
        version=source.version,
        filename=found.name,
        url=found.absolute().as_uri(),
        sha256=sha256(found.read_bytes()).hexdigest(),
        size_bytes=found.stat().st_size,
        source_sha256=source.sha256,
    )


def _fetch(source: LockedSource, indexes: Indexes, workshop: Workshop) -> Path:
    file = RemoteFile(
        url=source.url,
        name=source.filename,
        digest=Sha256(source.sha256),
        headers=Credentials(indexes, os.environ).headers(source.url),
    )
    return download_all([file], workshop.cache, network=indexes.environment)[file].path


def not_pure(archive: Path) -> str | None:
    """Return what keeps a source archive from being built here, None where it is pure Python."""
    try:
        with tarfile.open(archive, "r:gz") as file:
            members = file.getmembers()
            project = next((m for m in members if _inside(m.name) == "pyproject.toml"), None)
            stream = file.extractfile(project) if project is not None else None
            text = "" if stream is None else stream.read(_TEXT_BYTES).decode("utf-8", "replace")
        table = tomllib.loads(text).get("build-system", {})
    except (tarfile.TarError, EOFError, OSError, tomllib.TOMLDecodeError) as error:
        return f"its archive cannot be read ({error})"
    for member in members:
        path = PurePosixPath(member.name)
        if path.suffix in _OTHER_CODE or path.name in _OTHER_BUILDS:
            return f"it holds {path.name}, which is not Python"
    backend = str(table.get("build-backend", _LEGACY))
    if "backend-path" in table or not backend.startswith(_BACKENDS):
        return f"it is built by {backend}"
    return None


def _inside(name: str) -> str:
    return name.partition("/")[2]


def _build(archive: Path, source: LockedSource, place: Path, indexes: Indexes) -> Path:
    """Build in a folder of its own, and keep a wheel that any machine takes."""
    with tempfile.TemporaryDirectory(prefix="llava-pack-build-") as folder:
        named = Path(folder, source.filename)
        named.write_bytes(archive.read_bytes())
        command = [find_uv_bin(), "build", "--wheel", "--quiet", "--no-create-gitignore"]
        command += ["--out-dir", f"{folder}/out", "--python", sys.executable]
        environ = {**os.environ, **indexes.environment}
        environ = read_front(environ).environment(environ)
        environ |= {"SOURCE_DATE_EPOCH": _RELEASE, "PYTHONHASHSEED": "0"}
        done = subprocess.run(
            [*command, *indexes.arguments(), str(named)],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environ,
            cwd=folder,
            umask=0o022 if os.name != "nt" else -1,
            check=False,
            timeout=_TIMEOUT_S,
        )
        subject = f"{source.name} {source.version}"
        if done.returncode != 0:
            said = re.sub(r"://[^/@\s]*@", "://", done.stderr.strip())
            raise RecipeError(f"its build failed: {said}", subject=subject, hint=_HINT)
        (wheel,) = Path(folder, "out").glob("*.whl")
        tags = parse_wheel_filename(wheel.name)[3]
        if any((tag.abi, tag.platform) != ("none", "any") for tag in tags):
            said = f"its build produced {wheel.name}, expected a platform-independent wheel"
            raise RecipeError(said, subject=subject, hint=_HINT)
        place.mkdir(parents=True, exist_ok=True)
        kept = place / wheel.name
        files.write(kept, wheel.read_bytes())
        return kept
