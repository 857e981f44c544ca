"""Packages of a few bytes: wheels and source archives, as installers and builders read them."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

_EPOCH = 1_700_000_000


def write_wheel(
    folder: Path, name: str, version: str, *needs: str, tag: str = "py3-none-any"
) -> Path:
    """Write a wheel of one module; `needs` are requirements, perhaps with markers."""
    dist = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {need}\n" for need in needs)
    wheel = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{dist}/METADATA", metadata)
        archive.writestr(
            f"{dist}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n"
        )
        archive.writestr(f"{dist}/RECORD", "")
    return wheel


def write_environments(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Write wheels of an engine's own environment, and one that llava-pack's has too.

    They are fields of `BundleSimulator`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    engine = (write_wheel(folder, "vllm", "1.0", "shared"), write_wheel(folder, "other", "2.0"))
    return {"engine": engine, "shared": (write_wheel(folder, "shared", "1.0"),)}


def write_sdist(
    folder: Path,
    name: str,
    version: str,
    *,
    backend: str = "hatchling.build",
    more: Mapping[str, str] | None = None,
) -> Path:
    """Write a source archive of one module; `more` are files beside it, by name."""
    root = f"{name}-{version}"
    require = backend.split(".", maxsplit=1)[0]
    project = f'[build-system]\nrequires = ["{require}"]\nbuild-backend = "{backend}"\n'
    project += f'[project]\nname = "{name}"\nversion = "{version}"\n'
    info = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {"pyproject.toml": project, "PKG-INFO": info, f"{name}.py": "VALUE = 1\n"}
    path = folder / f"{root}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for inside, text in {**files, **(more or {})}.items():
            member = tarfile.TarInfo(f"{root}/{inside}")
            member.size, member.mtime = len(text.encode()), _EPOCH
            archive.addfile(member, io.BytesIO(text.encode()))
    return path
