"""What a target is, and whether it can run a bundle: pure, over facts gathered elsewhere."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llava_pack.format.exit_codes import ExitCode
from llava_pack.format.manifest import Floors

UNKNOWN = "could not be determined"
COMPILERS = "install g++ and NVIDIA's CUDA toolkit, or build with another --runtime"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU."""

    name: str
    driver: str | None = None
    compute_capability: str | None = None
    memory_bytes: int | None = None
    memory_free_bytes: int | None = None
    mig: bool | None = None
    mig_slices: tuple[str, ...] = ()
    """Names of the slices that it is cut into, for example `3g.20gb`."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What an installation needs to know of a machine; None where it could not be found out."""

    os: str | None = None
    """`linux`, as in a platform tag."""
    kernel: str | None = None
    arch: str | None = None
    glibc: str | None = None
    """None where the C library is another one."""
    glibcxx: str | None = None
    """Newest symbol version of the system's C++ library, for example 3.4.30."""
    python_version: str | None = None
    """Of the one interpreter that an installation will use."""
    cpu_flags: tuple[str, ...] | None = None
    disk_free_bytes: int | None = None
    """Of the one place that an installation will use."""
    memory_bytes: int | None = None
    gpus: tuple[Gpu, ...] | None = None


@dataclass(frozen=True)
class FloorFinding:
    """One fact held against one need."""

    name: str
    level: Literal["ok", "warn", "fail"]
    value: str
    need: str
    fix: str = ""
    """What fixes it; empty where nothing has to be."""
    exit_code: ExitCode = ExitCode.PREFLIGHT


def check_floors(
    profile: Machine, floors: Floors, *, precision: str | None = None, gpus: int = 1
) -> tuple[FloorFinding, ...]:
    """Hold a machine against what a bundle needs; a fact that is not known does not pass.

    Args:
        profile: the facts.
        floors: the least that the bundle needs.
        precision: the one that will be served; None takes the smallest footprint.
        gpus: how many share the layers of the model.
    """
    python = ".".join((profile.python_version or "").split(".")[:2]) or None
    fix = f"install Python {floors.python}, or build a bundle that carries its own"
    return (
        _same("os", profile.os, floors.platform, "use a bundle built for this system"),
        _same("arch", profile.arch, floors.arch, "build with --platform for this machine"),
        _same("python", python, floors.python, fix),
        *_system(profile, floors),
        *_gpu(profile, floors),
        *_sizes(profile, floors, precision, gpus),
    )


def version(text: str) -> tuple[int, ...]:
    """Return the numbers of a dotted version, to compare.

    >>> version("2.5.1") < version("2.28") < version("580.65.06")
    True
    """
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _system(profile: Machine, floors: Floors) -> Iterator[FloorFinding]:
    if floors.glibc is not None:
        fix = "build for an older glibc with --platform, or use a newer system"
        yield _at_least("glibc", profile.glibc, floors.glibc, fix)
    if floors.glibcxx is not None:
        fix = "install the system's libstdc++ (libstdc++6), or use a newer system"
        yield _at_least("libstdc++", profile.glibcxx, floors.glibcxx, fix)
    if floors.cpu_flags:
        absent = [flag for flag in floors.cpu_flags if flag not in (profile.cpu_flags or ())]
        value = f"without {', '.join(absent)}" if absent else "all present"
        value = UNKNOWN if profile.cpu_flags is None else value
        need = ", ".join(floors.cpu_flags)
        fix = "use a machine with a newer CPU"
        yield FloorFinding("cpu", "fail" if absent else "ok", value, need, fix)


def _gpu(profile: Machine, floors: Floors) -> Iterator[FloorFinding]:
    if floors.driver is None:
        return
    gpus = profile.gpus or (Gpu(name="none"),)
    best = max(gpus, key=lambda gpu: version(gpu.compute_capability or ""))
    fix = f"install an NVIDIA driver of at least {floors.driver}, or build with --cuda none"
    yield _at_least("driver", best.driver, floors.driver, fix)
    if floors.compute_capability is not None:
        fix = "build with --cuda 12, which still serves older GPUs"
        have = best.compute_capability
        yield _at_least("compute capability", have, floors.compute_capability, fix)


def _shared(profile: Machine, floors: Floors, gpus: int) -> int | None:
    """Return what so many GPUs have together: whole ones, new enough, the largest."""
    found = profile.gpus or ()
    least = version(floors.compute_capability or "")
    sizes = [
        one.memory_bytes or 0
        for one in found
        if gpus == 1 or (not one.mig and version(one.compute_capability or "") >= least)
    ]
    sizes.sort(reverse=True)
    return sum(sizes[:gpus]) if sizes else None


def _sizes(
    profile: Machine, floors: Floors, precision: str | None, gpus: int
) -> Iterator[FloorFinding]:
    fix = "free some space, or choose another folder with --prefix"
    yield _room("disk", profile.disk_free_bytes, floors.disk_bytes, fix)
    needs = floors.memory_bytes
    need = needs.get(precision) if precision is not None else min(needs.values(), default=None)
    if need is None:
        return
    fix = "use a lower precision: build with --quantize nf4"
    if floors.driver is None:
        yield _room("memory", profile.memory_bytes, need, fix)
    else:
        yield _room("GPU memory", _shared(profile, floors, gpus), need, fix)


def _same(name: str, value: str | None, need: str, fix: str) -> FloorFinding:
    return FloorFinding(name, "ok" if value == need else "fail", value or UNKNOWN, need, fix)


def _at_least(name: str, value: str | None, need: str, fix: str) -> FloorFinding:
    passed = value is not None and version(value) >= version(need)
    return FloorFinding(name, "ok" if passed else "fail", value or UNKNOWN, f"at least {need}", fix)


def _room(name: str, value: int | None, need: int, fix: str) -> FloorFinding:
    level: Literal["ok", "fail"] = "ok" if value is not None and value >= need else "fail"
    shown = UNKNOWN if value is None else f"{value} bytes"
    return FloorFinding(name, level, shown, f"at least {need} bytes", fix, ExitCode.SPACE)
