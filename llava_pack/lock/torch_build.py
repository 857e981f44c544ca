"""Which torch a target gets: the CUDA that each release on PyPI brings, and CPU builds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from llava_pack.lock.platform import Platform

Cuda = Literal["none", "12", "13"]

# Source: the dependency lists of torch's Linux wheels, read off PyPI's index in November 2026:
# 2.5 and 2.6 bring CUDA 12.4, 2.7 12.6, 2.8 to 2.10 12.8, 2.11 and later CUDA 13.
REQUIREMENTS: dict[Cuda, tuple[str, ...]] = {
    "none": (),
    "12": ("torch>=2.6,<2.11",),
    "13": ("torch>=2.11",),
}
# Source: NVIDIA CUDA toolkit release notes, minor-version compatibility.
DRIVER_FLOORS: dict[Cuda, str | None] = {"none": None, "12": "525.60", "13": "580.65"}
CPU_CLOSURE_FROM_PYPI_BYTES = 2_900_000_000


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


def choose_torch(
    cuda: Cuda, platform: Platform, find_links: Sequence[Path], *, backend: str | None
) -> TorchChoice:
    """Choose torch for a target.

    A CPU target takes a `+cpu` wheel that lies in find-links, pinned exactly (a resolver would
    otherwise prefer the newest CUDA build); else the CPU index that `--torch-backend` reaches.

    Args:
        cuda: the CUDA major of the target, `none` for CPU.
        platform: what the target accepts.
        find_links: local folders of wheels, from the pip or uv configuration.
        backend: `--torch-backend` as the person gave it, `pypi` for the plain index.
    """
    if backend is not None and backend != "pypi":
        return TorchChoice(requirements=REQUIREMENTS[cuda], backend=backend)
    if cuda != "none":
        return TorchChoice(requirements=REQUIREMENTS[cuda])
    local = local_cpu_torch(platform, find_links)
    if local is not None:
        return TorchChoice(requirements=(f"torch=={local}",))
    if backend == "pypi":
        size_gb = CPU_CLOSURE_FROM_PYPI_BYTES / 1e9
        note = f"no CPU build of torch: PyPI's own brings CUDA, about {size_gb:.1f} GB"
        return TorchChoice(requirements=(), note=note)
    return TorchChoice(requirements=(), backend="cpu")


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
