"""What a bundle is built for: from a target's facts, from options, or from defaults. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from llava_pack.format.errors import PreflightError, UsageError
from llava_pack.format.manifest import Engine
from llava_pack.format.target import Gpu, version
from llava_pack.lock.fit import serving_gpu
from llava_pack.lock.platform import Platform, parse_platform
from llava_pack.lock.profile import TargetProfile
from llava_pack.lock.releases import ReleaseTarget, check_backend, choose_release
from llava_pack.lock.torch_build import Cuda, TorchSeries, fitting_series
from llava_pack.profiles.profile import Release
from llava_pack.recipe import OLDEST_MINOR, Recipe
from llava_pack.runtimes import RUNTIMES

DEFAULT_PLATFORM = "x86_64-manylinux_2_35"
"""A current Ubuntu server."""
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""Minor versions that llava-pack runs on, the one with most wheels first."""
_MINOR = re.compile(r"3\.(\d+)")
_ARCHES = ("x86_64", "aarch64")
_NEWEST_GLIBC = 40
_OLDEST_GLIBC = 17
"""What uv's --python-platform knows. Source: `uv pip compile --help`."""
_OWN = "target"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a person says, which wins over the facts.

    Attributes:
        platform: ARCH-manylinux_2_N.
        python: a minor version, or `target` for the machine's own.
        torch_backend: passed on to uv.
        exclude_newer: no package that was uploaded after this date.
    """

    platform: str | None = None
    python: str | None = None
    cuda: Cuda | None = None
    torch_backend: str | None = None
    exclude_newer: str | None = None


@dataclass(frozen=True, kw_only=True)
class ResolutionTarget:
    """What the packages are resolved for, and why.

    Attributes:
        cuda: CUDA major of torch, `none` for CPU.
        series: the newest torch that the GPU runs, None where no GPU decides.
        release: of the engine that has an environment of its own, None where there is none.
        own_python: the bundle shall carry a CPython.
        target_pythons: minor versions that run on the target, None where that is not known.
        reasons: a line for each thing chosen.
    """

    platform: Platform
    cuda: Cuda
    series: TorchSeries | None = None
    release: Release | None = None
    own_python: bool = True
    torch_backend: str | None = None
    exclude_newer: str | None = None
    target_pythons: tuple[str, ...] | None = None
    reasons: tuple[str, ...] = ()

    def fallback_python(self) -> str:
        """Return the version for a bundle that carries none: the wanted one where it runs."""
        wanted = self.platform.python
        found = self.target_pythons
        return wanted if not found or wanted in found else found[0]


def choose(recipe: Recipe, profile: TargetProfile | None, asked: Asked) -> ResolutionTarget:
    """Return what a recipe's packages are resolved for.

    Args:
        recipe: what it says of Python and CUDA holds where neither facts nor options decide.
        profile: the target's facts, None where there are none.
        asked: options of the command line.

    Raises:
        PreflightError: no wheel can run on that system.
        UsageError: an option is malformed.
    """
    pythons = None if profile is None else _pythons(profile)
    wanted = recipe.runtime.python
    if asked.python not in {None, _OWN}:
        _check_python(asked.python or "")
    if asked.python == _OWN:
        python = wanted if not pythons or wanted in pythons else pythons[0]
    else:
        python = asked.python or wanted
    platform = _platform(profile, asked, python)
    gpu = None if profile is None else serving_gpu(profile)
    cuda = asked.cuda or _cuda(recipe, profile)
    if (engine := RUNTIMES[recipe.runtime.engine].profile) is not None:
        known = asked.cuda or (None if gpu is not None else cuda)
        place = ReleaseTarget(
            platform=platform, pythons=_wanted(recipe, asked, pythons), gpu=gpu, cuda=known
        )
        return _for_engine(recipe.runtime.engine, engine.releases, place, asked, pythons)
    series = None
    if gpu is not None and cuda != "none" and asked.torch_backend is None:
        series = _series(gpu, platform, asked.cuda)
        cuda = asked.cuda or ("12" if series is None else series.major)
    reasons = _reasons(platform, cuda, series, gpu, profile)
    return ResolutionTarget(
        platform=platform,
        cuda=cuda,
        series=series,
        own_python=asked.python != _OWN,
        torch_backend=asked.torch_backend,
        exclude_newer=asked.exclude_newer,
        target_pythons=pythons,
        reasons=tuple(reasons),
    )


def _for_engine(
    engine: Engine,
    releases: tuple[Release, ...],
    place: ReleaseTarget,
    asked: Asked,
    pythons: tuple[str, ...] | None,
) -> ResolutionTarget:
    """Return what is resolved for an engine of the field: its release decides CUDA and date.

    Raises:
        PreflightError: no release runs there.
        UsageError: it is not built for the torch that is asked for.
    """
    found = choose_release(engine, releases, place)
    release = found.release
    check_backend(release, asked.torch_backend)
    platform = replace(place.platform, python=place.python(release))
    wheels = f"wheels for {platform.arch}, glibc {platform.glibc}, Python {platform.python}"
    return ResolutionTarget(
        platform=platform,
        cuda=release.cuda,
        release=release,
        own_python=asked.python != _OWN,
        torch_backend=asked.torch_backend,
        exclude_newer=asked.exclude_newer,
        target_pythons=pythons,
        reasons=(wheels, *found.reasons),
    )


def _wanted(recipe: Recipe, asked: Asked, pythons: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the Pythons that will do, best first: where nobody says one, any can be carried."""
    if asked.python == _OWN and pythons:
        return pythons
    if asked.python not in {None, _OWN}:
        return (str(asked.python),)
    return tuple(dict.fromkeys((recipe.runtime.python, *PYTHONS)))


def _check_python(text: str) -> None:
    """Refuse a version that llava-pack does not run on: the server would find out, after hours."""
    match = _MINOR.fullmatch(text)
    if match is None or int(match[1]) < OLDEST_MINOR:
        raise UsageError(
            f"expected a minor version from 3.{OLDEST_MINOR} on, or 'target', got {text!r}",
            subject="--python",
            hint="leave it out for a bundle that carries its own Python",
        )


def _platform(profile: TargetProfile | None, asked: Asked, python: str) -> Platform:
    if asked.platform is not None or profile is None:
        return parse_platform(asked.platform or DEFAULT_PLATFORM, python)
    hint = "pass --platform ARCH-manylinux_2_N if the profile is wrong"
    if profile.os not in {None, "linux"} or profile.arch not in _ARCHES:
        system = f"{profile.os or 'unknown'} on {profile.arch or 'unknown'}"
        raise PreflightError(
            f"expected Linux on x86_64 or aarch64, got {system}", subject="target", hint=hint
        )
    if profile.glibc is None:
        library = profile.libc or "an unknown library"
        raise PreflightError(
            f"expected glibc as the C library, got {library}: torch has no wheel that runs there",
            subject="target",
            hint=hint,
        )
    minor = (*version(profile.glibc), 0)[1]
    minor = min(max(minor, _OLDEST_GLIBC), _NEWEST_GLIBC)
    return Platform(python=python, arch=profile.arch or "", glibc_minor=minor)


def _cuda(recipe: Recipe, profile: TargetProfile | None) -> Cuda:
    if profile is not None and profile.gpus is not None and not profile.gpus:
        return "none"
    return recipe.runtime.cuda


def _series(gpu: Gpu, platform: Platform, cuda: Cuda | None) -> TorchSeries | None:
    """Return the series that fits, else the one that would after the least change of the machine.

    A driver can be replaced, best by one that is not much newer; a GPU stays.
    """
    newer = replace(gpu, driver=None)
    tries: list[tuple[Gpu, Cuda | None]] = [(gpu, cuda), (newer, cuda or "12"), (newer, cuda)]
    tries.append((Gpu(name=gpu.name), cuda))
    found = (fitting_series(one, platform, major) for one, major in tries)
    return next((series for series in found if series is not None), None)


def _pythons(profile: TargetProfile) -> tuple[str, ...] | None:
    if profile.pythons is None:
        return None
    there = {".".join(found.version.split(".")[:2]) for found in profile.pythons}
    return tuple(minor for minor in PYTHONS if minor in there)


def _reasons(
    platform: Platform,
    cuda: Cuda,
    series: TorchSeries | None,
    gpu: Gpu | None,
    profile: TargetProfile | None,
) -> Iterator[str]:
    yield f"wheels for {platform.arch}, glibc {platform.glibc}, Python {platform.python}"
    if cuda == "none":
        none = profile is not None and profile.gpus == ()
        yield "torch for the CPU: the machine has no NVIDIA GPU" if none else "torch for the CPU"
    elif gpu is None or series is None:
        told = profile is not None
        yield f"torch with CUDA {cuda}: the GPU is unknown" if told else f"torch with CUDA {cuda}"
    else:
        since, below = series.since, series.below
        which = f"{since} or newer" if below is None else f"{since} or newer below {below}"
        yield f"torch {which}, CUDA {series.cuda}: {_gpu_text(gpu)}"


def _gpu_text(gpu: Gpu) -> str:
    capability = gpu.compute_capability or "unknown"
    return f"{gpu.name}, compute capability {capability}, driver {gpu.driver or 'unknown'}"
