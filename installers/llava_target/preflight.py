"""Facts about this machine, held against what a bundle needs, before anything is written."""

import ctypes
import dataclasses
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from llava_pack.format.errors import PackError, PreflightError, SpaceError
from llava_pack.format.exit_codes import ExitCode
from llava_pack.format.manifest import Manifest
from llava_pack.format.target import Finding, Gpu, TargetProfile, check_floors, version
from llava_target import disk, programs

_MIB = 1024 * 1024
_GPU_FIELDS = "name,driver_version,compute_cap,memory.total,memory.free"
_FACTS_BYTES = 256 * 1024


def findings(
    manifest: Manifest, prefix: Path, *, python_version: str | None, stored_bytes: int
) -> tuple[Finding, ...]:
    """Hold this machine against the floors of a bundle; `stored_bytes` need no room again."""
    floors = manifest.floors
    profile = this_machine(prefix, python_version=python_version, gpus=floors.driver is not None)
    rest = dataclasses.replace(floors, disk_bytes=max(0, floors.disk_bytes - stored_bytes))
    found = check_floors(profile, rest, precision=manifest.serving.precision)
    return (*found, _prefix(prefix))


def check(found: Iterable[Finding]) -> None:
    """Refuse a machine with any failed finding, naming all of them.

    Raises:
        PreflightError: it cannot run the bundle.
        SpaceError: only disk or memory is short.
    """
    failed = [item for item in found if item.level == "fail"]
    if not failed:
        return
    only_space = all(item.exit_code is ExitCode.SPACE for item in failed)
    kind: type[PackError] = SpaceError if only_space else PreflightError
    message = "; ".join(f"{item.name}: expected {item.need}, got {item.value}" for item in failed)
    hint = "; ".join(dict.fromkeys(item.fix for item in failed))
    raise kind(message, subject="this machine", hint=hint)


def this_machine(prefix: Path, *, python_version: str | None, gpus: bool) -> TargetProfile:
    """Return the facts that the floors of a bundle ask for; of GPUs only where `gpus` says so."""
    return TargetProfile(
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


def _prefix(prefix: Path) -> Finding:
    place = disk.existing(prefix)
    value = str(place)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        value += ", read-only"
    if os.statvfs(place).f_flag & os.ST_NOEXEC:
        value += ", noexec"
    need = "a folder that can be written, and whose programs may run"
    fix = "choose another place with --prefix"
    return Finding("prefix", "ok" if value == str(place) else "fail", value, need, fix)


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
    name, driver, capability, *amounts = row
    total, free = (int(text) * _MIB if text.isdecimal() else None for text in amounts)
    return Gpu(
        name=name,
        driver=driver,
        compute_capability=capability,
        memory_bytes=total,
        memory_free_bytes=free,
    )
