"""Which release of an engine a target gets: the newest that runs there, and why no newer. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from llava_pack.format.errors import PreflightError, UsageError
from llava_pack.format.manifest import Engine
from llava_pack.format.target import Gpu, version
from llava_pack.lock.platform import Platform
from llava_pack.lock.torch_build import DRIVER_FLOORS, Cuda
from llava_pack.profiles.profile import Release
from llava_pack.runtimes import RUNTIMES


@dataclass(frozen=True, kw_only=True)
class ReleaseTarget:
    """What a release is held against; what is not known refuses nothing.

    Attributes:
        platform: of the target, with the Python that is wanted.
        pythons: minor versions of which one will do, the wanted one first.
        gpu: that the model will be on.
        cuda: the only one that will do, None for any that a GPU runs.
    """

    platform: Platform
    pythons: tuple[str, ...]
    gpu: Gpu | None = None
    cuda: Cuda | None = None

    def meant(self, releases: tuple[Release, ...]) -> tuple[Release, ...]:
        """Return the releases for such machines, CPU or GPU; all where there are none."""
        alike = [
            one
            for one in releases
            if self.platform.arch in one.arches and (one.cuda == "none") == (self.cuda == "none")
        ]
        return tuple(alike) or releases

    def refusals(self, release: Release) -> Iterator[str]:
        """Yield why a release does not run there."""
        if self.cuda not in {None, release.cuda}:
            yield f"it is for {_device(release.cuda)}, expected {_device(self.cuda or '')}"
        elif release.cuda == "none" and self.cuda is None:
            yield "it is for the CPU"
        if self.platform.arch not in release.arches:
            yield f"no wheels for {self.platform.arch}"
        if self.platform.glibc_minor < release.glibc_minor:
            yield f"glibc {self.platform.glibc}, needs 2.{release.glibc_minor}"
        if not {*self.pythons} & {*release.pythons}:
            yield f"Python {', '.join(self.pythons)}, needs {' or '.join(release.pythons)}"
        if self.gpu is not None:
            yield from self._of_gpu(self.gpu, release)

    def _of_gpu(self, gpu: Gpu, release: Release) -> Iterator[str]:
        driver, capability = DRIVER_FLOORS[release.cuda] or "", gpu.compute_capability or ""
        if gpu.driver is not None and version(gpu.driver) < version(driver):
            yield f"driver {gpu.driver}, needs {driver}"
        if capability and version(capability) < version(release.capability):
            yield f"compute capability {capability}, needs {release.capability}"

    def python(self, release: Release) -> str:
        """Return the Python that a release gets: the wanted one where it has wheels for it."""
        return next(one for one in self.pythons if one in release.pythons)


@dataclass(frozen=True, kw_only=True)
class ChosenRelease:
    """The release that a target gets.

    Attributes:
        reasons: a line for it, and one for each newer release.
    """

    release: Release
    reasons: tuple[str, ...]


def choose_release(
    engine: Engine, releases: tuple[Release, ...], place: ReleaseTarget
) -> ChosenRelease:
    """Return the newest release that runs there.

    Raises:
        PreflightError: none does; each one's reason is named.
    """
    title = RUNTIMES[engine].title
    passed: list[str] = []
    for release in place.meant(releases):
        why = "; ".join(place.refusals(release))
        if not why:
            return ChosenRelease(release=release, reasons=(_line(title, release), *passed))
        passed.append(_line(title, release, why))
    raise PreflightError(
        f"no release of {title} runs there: {'; '.join(passed)}",
        subject="target",
        hint="; ".join(_ways_out(engine, releases, place)),
    )


def _line(title: str, release: Release, why: str = "") -> str:
    """Return what is told of a release that is chosen, or of one that is not."""
    name = f"{title} {release.version}"
    if why:
        return f"{name} ({_device(release.cuda)}) does not run there: {why}"
    return f"{name}: {_device(release.cuda)}, glibc 2.{release.glibc_minor} or newer"


def _ways_out(engine: Engine, releases: tuple[Release, ...], place: ReleaseTarget) -> Iterator[str]:
    """Yield what helps: a newer driver, another Python or engine, or llava-pack's own."""
    if place.gpu is not None and place.gpu.driver is not None:
        newer = replace(place, gpu=replace(place.gpu, driver=None))
        would = [one for one in releases if not any(newer.refusals(one))]
        if would:
            yield f"install an NVIDIA driver of at least {DRIVER_FLOORS[would[-1].cuda]} there"
    known = tuple(dict.fromkeys(python for one in releases for python in one.pythons))
    if any(not any(replace(place, pythons=known).refusals(one)) for one in releases):
        yield f"--python {' or '.join(known)}"
    for name, other in RUNTIMES.items():
        others = () if other.profile is None else other.profile.releases
        fits = (one.cuda != "none" and not any(place.refusals(one)) for one in others)
        if name != engine and any(fits):
            yield f"--runtime {name} has a release that runs there"
    yield (
        "--runtime transformers: llava-pack's own engine has a torch for older machines and for "
        "CPUs"
    )


def check_backend(release: Release, backend: str | None) -> None:
    """Refuse another torch than the one that a release's own kernels are built for.

    Raises:
        UsageError: for a GPU, any but PyPI's is asked for.
    """
    if release.cuda != "none" and backend not in {None, "pypi"}:
        raise UsageError(
            f"{release.requirements[0]} is built for the torch on PyPI, got {backend!r}",
            subject="--torch-backend",
            hint="leave it out; --cuda chooses among the releases",
        )


def _device(cuda: str) -> str:
    return "the CPU" if cuda == "none" else f"CUDA {cuda}"
