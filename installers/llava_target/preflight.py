"""Facts about this machine, held against what a bundle needs, before anything is written."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from llava_pack.format.errors import PackError, PreflightError, SpaceError
from llava_pack.format.exit_codes import ExitCode
from llava_pack.format.manifest import Manifest
from llava_pack.format.target import Finding, Gpu, TargetProfile, check_floors
from llava_target import disk, programs

_MIB = 1024 * 1024
_GPU_FIELDS = "name,driver_version,compute_cap,memory.total,memory.free"
_FACTS_BYTES = 256 * 1024


def findings(
    manifest: Manifest, prefix: Path, *, python_version: str | None, stored_bytes: int
) -> tuple[Finding, ...]:
    """Hold this machine against the floors of a bundle.

    Args:
        manifest: of the bundle.
        prefix: where it would be installed; it need not exist.
        python_version: of the interpreter that the bundle would run on.
        stored_bytes: what is in the store of the prefix already, and needs no room again.
    """
    floors = manifest.floors
    rest = max(0, floors.disk_bytes - stored_bytes)
    profile = this_machine(prefix, python_version=python_version, gpus=floors.driver is not None)
    found = check_floors(
        profile, dataclasses.replace(floors, disk_bytes=rest), precision=manifest.serving.precision
    )
    return (*found, _prefix(prefix))


def check(found: Iterable[Finding]) -> None:
    """Refuse a machine with any failed finding, naming all of them.

    Raises:
        PreflightError: it cannot run the bundle.
        SpaceError: only disk or memory is short.
    """
    failed = [finding for finding in found if finding.level == "fail"]
    if not failed:
        return
    only_space = all(finding.exit_code is ExitCode.SPACE for finding in failed)
    kind: type[PackError] = SpaceError if only_space else PreflightError
    raise kind(
        "; ".join(
            f"{finding.name}: expected {finding.need}, got {finding.value}" for finding in failed
        ),
        subject="this machine",
        hint="; ".join(dict.fromkeys(finding.fix for finding in failed)),
    )


def this_machine(prefix: Path, *, python_version: str | None, gpus: bool) -> TargetProfile:
    """Return the facts that the floors of a bundle ask for.

    Args:
        prefix: the disk is the one that holds it.
        python_version: of the interpreter that will be used.
        gpus: ask the NVIDIA driver.
    """
    system = os.uname()
    return TargetProfile(
        os=sys.platform,
        kernel=system.release,
        arch=system.machine,
        glibc=_glibc(),
        python_version=python_version,
        cpu_flags=_cpu_flags(),
        disk_free_bytes=disk.free_bytes(prefix),
        memory_bytes=_memory_bytes(),
        gpus=_gpus() if gpus else None,
    )


def _prefix(prefix: Path) -> Finding:
    place = prefix
    while not place.exists():
        place = place.parent
    writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    runs = not os.statvfs(place).f_flag & os.ST_NOEXEC
    return Finding(
        name="prefix",
        level="ok" if writable and runs else "fail",
        value=f"{place}"
        if writable and runs
        else f"{place}, {'noexec' if writable else 'read-only'}",
        need="a folder that can be written, and whose programs may run",
        fix="choose another place with --prefix",
        exit_code=ExitCode.PREFLIGHT,
    )


def _glibc() -> str | None:
    with contextlib.suppress(ValueError, OSError):
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return version if name == "glibc" else None
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
    amounts = [
        int(line.split()[1]) * 1024
        for line in _fact("/proc/meminfo").splitlines()
        if line.startswith("MemTotal:")
    ]
    limits = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    amounts += [int(text) for path in limits if (text := _fact(path).strip()).isdecimal()]
    return min(amounts, default=None)


def _gpus() -> tuple[Gpu, ...] | None:
    command = ["nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"]
    text = programs.answer(command, timeout_s=60)
    if text is None:
        return None
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return tuple(_gpu(row) for row in rows if len(row) == len(_GPU_FIELDS.split(",")))


def _gpu(row: list[str]) -> Gpu:
    name, driver, capability, total, free = row
    return Gpu(
        name=name,
        driver=driver,
        compute_capability=capability,
        memory_bytes=int(total) * _MIB if total.isdecimal() else None,
        memory_free_bytes=int(free) * _MIB if free.isdecimal() else None,
    )
