"""Facts about this machine, held against what a bundle needs, before anything is written."""

import ctypes
import fcntl
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from llava_pack.format.errors import IntegrityError, PreflightError, SpaceError
from llava_pack.format.exit_codes import ExitCode
from llava_pack.format.manifest import Manifest
from llava_pack.format.target import COMPILERS, FloorFinding, Gpu, Machine, check_floors, version
from llava_pack.target import disk, environment, programs

_MIB = 1024 * 1024
_GPU_FIELDS = "name,driver_version,compute_cap,memory.total,memory.free,mig.mode.current"
_FACTS_BYTES = 256 * 1024


def findings(
    manifest: Manifest,
    prefix: Path,
    *,
    python_version: str | None,
    present_bytes: int,
    now: float,
    kept: Collection[str] = (),
    lost: Collection[str] = (),
) -> tuple[FloorFinding, ...]:
    """Hold this machine against the floors of a bundle.

    Args:
        manifest: of the bundle.
        prefix: where it would be installed.
        python_version: of the interpreter that would be used, None where there is none.
        present_bytes: of the bundle that need no room, because they are there or are linked.
        now: UTC seconds by the clock of this machine.
        kept: names of variables that the smoke test gets.
        lost: names of those that it should get too, and does not.
    """
    floors = manifest.floors
    profile = this_machine(prefix, python_version=python_version, gpus=floors.driver is not None)
    rest = replace(floors, disk_bytes=max(0, floors.disk_bytes - present_bytes))
    serving = manifest.serving
    found = check_floors(profile, rest, precision=serving.precision, gpus=serving.gpus)
    place = (*_place(prefix, manifest.inodes), *_file_system(disk.existing(prefix)))
    around = (_environment(os.environ, kept, lost), _clock(manifest.release, now))
    return (*found, *_tools(floors.tools), *place, *around)


def check(found: Iterable[FloorFinding]) -> None:
    """Refuse a machine with any failed finding, naming all of them.

    Raises:
        PreflightError: it cannot run the bundle.
        SpaceError: only disk or memory is short.
        IntegrityError: only the bundle is not whole.
    """
    failed = [item for item in found if item.level == "fail"]
    if not failed:
        return
    codes = {item.exit_code for item in failed}
    kinds = (SpaceError, IntegrityError)
    kind = next((kind for kind in kinds if codes == {kind.exit_code}), PreflightError)
    message = "; ".join(f"{item.name}: expected {item.need}, got {item.value}" for item in failed)
    hint = "; ".join(dict.fromkeys(item.fix for item in failed))
    raise kind(message, subject="" if kind is IntegrityError else "this machine", hint=hint)


def free_gpu_memory(
    manifest: Manifest, *, serves: bool, downtime: bool
) -> tuple[FloorFinding, ...]:
    """Say whether a GPU has room now to test a version beside what `serves`.

    `downtime` allows to stop that for the swap.
    """
    need = manifest.floors.memory_bytes.get(manifest.serving.precision)
    if manifest.floors.driver is None or need is None:
        return ()
    sizes = sorted((gpu.memory_free_bytes or 0 for gpu in _gpus() or ()), reverse=True)
    free = sum(sizes[: manifest.serving.gpus])
    room = FloorFinding("free GPU memory", "ok", f"{free} bytes", f"{need} bytes")
    if free >= need:
        return (room,)
    if not serves:
        return (replace(room, level="warn", fix="stop the programs that use it: nvidia-smi"),)
    if downtime:
        return (replace(room, level="warn", fix="the running server is stopped for the swap"),)
    fix = "leave out --no-downtime, or stop the other programs that use it: nvidia-smi"
    return (replace(room, level="fail", fix=fix, exit_code=ExitCode.SPACE),)


def this_machine(prefix: Path, *, python_version: str | None, gpus: bool) -> Machine:
    """Return the facts that the floors of a bundle ask for; of GPUs only where `gpus` says so."""
    return Machine(
        os=sys.platform,
        kernel=os.uname().release,
        arch=os.uname().machine,
        glibc=_glibc(),
        glibcxx=_glibcxx(),
        python_version=python_version,
        cpu_flags=_cpu_flags(),
        disk_free_bytes=disk.free_bytes(prefix),
        memory_bytes=_memory_bytes(),
        gpus=_gpus() if gpus else None,
    )


def _tools(names: Collection[str]) -> Iterator[FloorFinding]:
    """Say which programs are missing that the engine compiles with."""
    where = os.pathsep.join([programs.SEARCH_PATH, "/usr/local/cuda/bin"])
    absent = [name for name in names if shutil.which(name, path=where) is None]
    if absent:
        value = f"missing: {', '.join(absent)}"
        yield FloorFinding("tools", "fail", value, "all of them", COMPILERS)


def _place(prefix: Path, inodes: int) -> Iterator[FloorFinding]:
    place = disk.existing(prefix)
    value = str(place)
    facts = os.statvfs(place)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        value += ", read-only"
    if facts.f_flag & os.ST_NOEXEC:
        value += ", noexec"
    need = "a writable folder where programs may run"
    fix = "choose another folder with --prefix"
    yield FloorFinding("prefix", "ok" if value == str(place) else "fail", value, need, fix)
    if facts.f_files:  # some file systems make inodes as they need them, and say 0
        level: Literal["ok", "fail"] = "ok" if facts.f_favail >= inodes else "fail"
        value = f"{facts.f_favail} are free"
        need = f"at least {inodes}"
        yield FloorFinding("inodes", level, value, need, fix, ExitCode.SPACE)


def _file_system(place: Path) -> Iterator[FloorFinding]:
    """Try what an installation does that FAT, exFAT and some network file systems cannot do."""
    try:
        # killed, it leaves what the next run clears as it clears an install.sh's
        own = f".bootstrap.{os.getpid()}."
        with tempfile.TemporaryDirectory(prefix=own, dir=place) as folder:
            lacks = [name for name, works in _TRIALS.items() if not _done(works, Path(folder))]
    except OSError:
        return  # nothing can be written there: another finding says so
    value = f"no {' and no '.join(lacks)} under {place}" if lacks else "all of these"
    fix = "choose a --prefix on ext4, xfs or another file system of Linux"
    need = "symbolic links, locks, permissions, upper and lower case"
    yield FloorFinding("file system", "fail" if lacks else "ok", value, need, fix)


def _done(trial: Callable[[Path], bool], folder: Path) -> bool:
    try:
        return trial(folder)
    except OSError:
        return False


def _links(folder: Path) -> bool:
    link = folder / "link"
    link.symlink_to("target")
    return link.readlink() == Path("target")


def _locks(folder: Path) -> bool:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
    return True


def _permissions(folder: Path) -> bool:
    file = folder / "file"
    file.touch()
    modes = (0o444, 0o755)
    for mode in modes:
        file.chmod(mode)
        if stat.S_IMODE(file.stat().st_mode) != mode:
            return False
    return True


def _cases(folder: Path) -> bool:
    (folder / "case").touch()
    return not (folder / "CASE").exists()


_TRIALS = {
    "symbolic links": _links,
    "locks": _locks,
    "permissions": _permissions,
    "upper and lower case": _cases,
}


def _environment(
    environ: Mapping[str, str], kept: Collection[str], lost: Collection[str]
) -> FloorFinding:
    """Name what changes how libraries run: what reaches installer and server, and what does not."""
    names = ", ".join(environment.left_out(environ))
    value = f"{names}: left out here and by bin/llava-pack" if names else "nothing is left out"
    value += f"; kept here and by bin/llava-pack: {', '.join(kept)}" if kept else ""
    value += f"; missing, though named or kept until now: {', '.join(lost)}" if lost else ""
    need = f"the same for the smoke test and for serve; {environment.KEEP} NAME keeps one"
    words = " ".join(f"{environment.KEEP} {name}" for name in lost)
    fix = f"where it is needed: set it, and the same command with {words}"
    return FloorFinding("environment", "warn" if lost else "ok", value, need, fix)


def _clock(release: int, now: float) -> FloorFinding:
    value = time.strftime("%Y-%m-%d", time.gmtime(now))
    need = f"after the bundle's release, {time.strftime('%Y-%m-%d', time.gmtime(release))}"
    fix = "set the clock; only the dates in receipts and logs depend on it"
    return FloorFinding("clock", "ok" if now >= release else "warn", value, need, fix)


def _glibc() -> str | None:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return None
    return version if name == "glibc" else None


def _glibcxx() -> str | None:
    """Return the newest symbol version of the C++ library that the loader finds."""
    try:
        ctypes.CDLL("libstdc++.so.6")
    except OSError:
        return None
    for line in _fact("/proc/self/maps").splitlines():
        path = "/" + line.partition("/")[2]
        if path.rpartition("/")[2].startswith("libstdc++.so"):
            names = re.findall(rb"\0GLIBCXX_(3\.4(?:\.\d+)?)(?=\0)", Path(path).read_bytes())
            return max((name.decode() for name in names), key=version, default=None)
    return None


def _fact(path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as stream:
            return stream.read(_FACTS_BYTES)
    except OSError:
        return ""


def _cpu_flags() -> tuple[str, ...] | None:
    for line in _fact("/proc/cpuinfo").splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return tuple(flags.split())
    return None


def _memory_bytes() -> int | None:
    lines = _fact("/proc/meminfo").splitlines()
    amounts = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")]
    limits = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    amounts += [int(text) for path in limits if (text := _fact(path).strip()).isdecimal()]
    return min(amounts, default=None)


def _gpus() -> tuple[Gpu, ...] | None:
    command = ["nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"]
    text = programs.answer(command)
    rows = [[cell.strip() for cell in line.split(",")] for line in (text or "").splitlines()]
    found = tuple(_gpu(row) for row in rows if len(row) == _GPU_FIELDS.count(",") + 1)
    return found if text is not None else None


def _gpu(row: list[str]) -> Gpu:
    name, driver, capability, *amounts, mig = row
    total, free = (int(text) * _MIB if text.isdecimal() else None for text in amounts)
    return Gpu(
        name=name,
        driver=driver,
        compute_capability=capability,
        memory_bytes=total,
        memory_free_bytes=free,
        mig=mig == "Enabled",
    )
