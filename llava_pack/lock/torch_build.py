"""Which torch a target gets: what each release on PyPI brings and needs, and CPU builds."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from llava_pack.format.errors import RecipeError
from llava_pack.format.target import Gpu, version
from llava_pack.lock.platform import Platform
from llava_pack.lock.pylock import LockedWheel

Cuda = Literal["none", "12", "13"]

DRIVER_FLOORS: dict[Cuda, str | None] = {"none": None, "12": "525.60", "13": "580.65"}
"""Source: NVIDIA CUDA toolkit release notes, minor-version compatibility."""
CPU_CLOSURE_FROM_PYPI_BYTES = 2_900_000_000
OLDEST = "2.6"
"""The oldest torch that the engine works with, as in llava-pack's own requirements."""
_RUNTIME = "nvidia-cuda-runtime"


@dataclass(frozen=True, kw_only=True)
class TorchSeries:
    """Releases of torch on PyPI that bring one CUDA.

    Attributes:
        since: first release.
        below: first release of the next series, None for the newest.
        cuda: version of the CUDA runtime in their lock.
        capability: least compute capability that they have code for.
        newest: largest compute capability that they have code for, None where none is known.
        glibc_minor: the N of the oldest glibc 2.N that their wheels install on.
        aarch64: their aarch64 wheels bring CUDA too.
    """

    since: str
    below: str | None
    cuda: str
    capability: str
    newest: str | None = None
    glibc_minor: int = 28
    aarch64: bool = False

    @property
    def major(self) -> Cuda:
        """Return the major version of CUDA."""
        return "13" if self.cuda.startswith("13.") else "12"

    @property
    def driver(self) -> str:
        """Return the oldest NVIDIA driver."""
        return DRIVER_FLOORS[self.major] or ""

    def refusals(self, gpu: Gpu, platform: Platform) -> tuple[str, ...]:
        """Return why this series does not run there; a fact that is not known refuses nothing."""
        capability = version(gpu.compute_capability or "")
        found = []
        if gpu.driver is not None and version(gpu.driver) < version(self.driver):
            found.append(f"driver {gpu.driver}, needs {self.driver}")
        if capability and capability < version(self.capability):
            found.append(f"compute capability {gpu.compute_capability}, needs {self.capability}")
        if capability and self.newest is not None and capability > version(self.newest):
            found.append(
                f"compute capability {gpu.compute_capability}, supports up to {self.newest}"
            )
        if platform.glibc_minor < self.glibc_minor:
            found.append(f"glibc {platform.glibc}, needs 2.{self.glibc_minor}")
        if platform.arch == "aarch64" and not self.aarch64:
            found.append("no CUDA for aarch64")
        return tuple(found)


# Newest first. Source: the dependency lists and tags of torch's Linux wheels, read off PyPI's index
# in November 2026; compute capabilities: PyTorch's release compatibility matrix (pytorch/pytorch
# RELEASE.md, issues 172352 and 175253).
SERIES = (
    TorchSeries(since="2.15", below=None, cuda="13.2", capability="7.5", aarch64=True),
    TorchSeries(since="2.11", below="2.15", cuda="13.0", capability="7.5", aarch64=True),
    TorchSeries(since="2.8", below="2.11", cuda="12.8", capability="7.0"),
    TorchSeries(since="2.7", below="2.8", cuda="12.6", capability="5.0", newest="9.0"),
    TorchSeries(
        since="2.6", below="2.7", cuda="12.4", capability="5.0", newest="9.0", glibc_minor=17
    ),
)


@dataclass(frozen=True, kw_only=True)
class TorchChoice:
    """What is asked of the resolver for torch.

    Attributes:
        requirements: added to the recipe's.
        backend: value of uv's `--torch-backend`, None to leave it out.
        note: a line for the person, empty when there is nothing to say.
    """

    requirements: tuple[str, ...]
    backend: str | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class TorchNeeds:
    """What the torch of a lock is, and what it needs of a machine.

    Attributes:
        cuda: version of the CUDA runtime in the lock, None for a CPU target.
    """

    version: str
    cuda: str | None = None
    driver: str | None = None
    capability: str | None = None


def fitting_series(gpu: Gpu, platform: Platform, cuda: Cuda | None = None) -> TorchSeries | None:
    """Return the newest series that runs there, of one CUDA major where that is asked for.

    >>> from llava_pack.lock.platform import parse_platform
    >>> v100 = Gpu(name="V100", driver="580.95.05", compute_capability="7.0")
    >>> fitting_series(v100, parse_platform("x86_64-manylinux_2_35", "3.11")).since
    '2.8'
    """
    for series in SERIES:
        if cuda in {None, series.major} and not series.refusals(gpu, platform):
            return series
    return None


def choose_torch(
    cuda: Cuda,
    platform: Platform,
    find_links: Sequence[Path],
    *,
    backend: str | None,
    series: TorchSeries | None = None,
) -> TorchChoice:
    """Choose torch for a target.

    A CPU target takes a `+cpu` wheel that lies in find-links, pinned exactly (a resolver would
    otherwise prefer the newest CUDA build); else the CPU index that `--torch-backend` reaches.

    Args:
        cuda: the CUDA major of the target, `none` for CPU.
        platform: what the target accepts.
        find_links: local folders of wheels, from the pip or uv configuration.
        backend: `--torch-backend` as the person gave it, `pypi` for the plain index.
        series: the newest that the target runs; None takes the newest of that CUDA major.
    """
    if backend is not None and backend != "pypi":
        return TorchChoice(requirements=(f"torch>={OLDEST}",), backend=backend)
    if cuda != "none":
        return TorchChoice(requirements=(_range(cuda, series),))
    local = local_cpu_torch(platform, find_links)
    if local is not None:
        return TorchChoice(requirements=(f"torch=={local}",))
    if backend == "pypi":
        size_gb = CPU_CLOSURE_FROM_PYPI_BYTES / 1e9
        note = f"no CPU build of torch: PyPI's own includes CUDA, about {size_gb:.1f} GB"
        return TorchChoice(requirements=(), note=note)
    return TorchChoice(requirements=(), backend="cpu")


def torch_needs(wheels: Iterable[LockedWheel], cuda: Cuda) -> TorchNeeds:
    """Return what the torch of a resolved lock needs, by the CUDA runtime that is really in it.

    Raises:
        RecipeError: the lock has no torch; it is for a GPU and has no CUDA runtime; or it has one
            that the driver of that GPU does not know.
    """
    by_name = {wheel.name: wheel.version for wheel in wheels}
    if "torch" not in by_name:
        raise RecipeError("torch is missing", subject="lock", hint="add torch to the requirements")
    if cuda == "none":
        return TorchNeeds(version=by_name["torch"])
    runtimes = [by_name[name] for name in sorted(by_name) if name.startswith(_RUNTIME)]
    if not runtimes:
        raise RecipeError(
            f"torch {by_name['torch']} for a GPU, expected a CUDA runtime in the lock, got none",
            subject="lock",
            hint="choose another --cuda or --torch-backend, or --cuda none for the CPU",
        )
    runtime = ".".join(runtimes[0].split(".")[:2])
    if version(runtime) >= (int(cuda) + 1,):
        raise RecipeError(
            f"torch {by_name['torch']} includes CUDA {runtime}, expected at most CUDA {cuda}",
            subject="lock",
            hint="narrow torch in the recipe's requirements, or build with --cuda 13",
        )
    return TorchNeeds(
        version=by_name["torch"],
        cuda=runtime,
        driver=DRIVER_FLOORS["13" if runtime.startswith("13.") else "12"],
        capability=_capability(runtime),
    )


def local_cpu_torch(platform: Platform, find_links: Sequence[Path]) -> str | None:
    """Return the newest `+cpu` version of torch in find-links that fits the target."""
    tags = set(platform.tags())
    versions = []
    for folder in find_links:
        for wheel in folder.glob("torch-*.whl"):
            try:
                name, version, _, wheel_tags = parse_wheel_filename(wheel.name)
            except InvalidWheelFilename:
                continue
            if name == "torch" and version.local == "cpu" and tags & wheel_tags:
                versions.append(version)
    return str(max(versions)) if versions else None


def _range(cuda: Cuda, series: TorchSeries | None) -> str:
    """Return torch as a requirement.

    >>> _range("12", None), _range("13", None)
    ('torch>=2.6,<2.11', 'torch>=2.11')
    """
    of_major = list(_of_major(cuda))
    below = (series or of_major[0]).below
    return f"torch>={of_major[-1].since}" + ("" if below is None else f",<{below}")


def _of_major(cuda: Cuda) -> Iterator[TorchSeries]:
    return (series for series in SERIES if series.major == cuda)


def _capability(runtime: str) -> str:
    """Return the least compute capability of builds with one CUDA runtime.

    PyTorch's own indexes have builds of newer releases with an older CUDA, which keep its GPUs.
    """
    known = (one.capability for one in SERIES if version(one.cuda) <= version(runtime))
    return next(known, SERIES[-1].capability)
