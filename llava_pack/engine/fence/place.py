"""What of this process and this machine a fence is planned from, looked up once."""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import llava_pack

_LOADERS = ("lib64/ld-*.so*", "lib/ld-*.so*", "lib/*-linux-gnu/ld-*.so*")
_SCREENS = "dri"
_DEVICES = (
    "nvidia*",
    "nvidia-caps/*",
    "nvidia-caps-imex-channels/*",
    f"{_SCREENS}/*",
    "nvhost-*",
    "nvmap",
    "dxg",
)
"""Source: what NVIDIA's container toolkit hands to a container; Tegra's and WSL's beside."""
_MPS_PIPES = "/tmp/nvidia-mps"  # noqa: S108 - where NVIDIA's MPS puts them
_DRIVER = Path("/proc/driver/nvidia")
_MODPROBE = Path("/usr/bin/nvidia-modprobe")
_MODPROBE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a process runs.

    Attributes:
        python: folders of its interpreter, its packages and this one.
        programs: its interpreter as a file, and what loads it.
        checkout: the folder that this package is found in, where it is not installed: an
            interpreter that is started has to list it.
        devices: of GPUs.
        libraries: folders that LD_LIBRARY_PATH names.
        mps: where the pipes of NVIDIA's MPS are, None where it is not in use.
    """

    python: tuple[Path, ...]
    programs: tuple[Path, ...]
    checkout: Path | None = None
    devices: tuple[Path, ...] = ()
    libraries: tuple[Path, ...] = ()
    mps: Path | None = None

    @property
    def has_gpu(self) -> bool:
        """Whether CUDA may find one; a screen's own card is none."""
        return any(path.parent.name != _SCREENS for path in self.devices)


def this_place(environment: Mapping[str, str]) -> Place:
    """Return where this process runs.

    Args:
        environment: of the process.
    """
    pipes = Path(environment.get("CUDA_MPS_PIPE_DIRECTORY") or _MPS_PIPES)
    named = environment.get("LD_LIBRARY_PATH", "").split(":")
    return Place(
        python=_distinct(_python()),
        programs=_distinct(_programs()),
        checkout=_checkout(),
        devices=_distinct(path for pattern in _DEVICES for path in Path("/dev").glob(pattern)),
        libraries=_distinct(Path(one) for one in named if one.startswith("/")),
        mps=pipes if pipes.is_dir() else None,
    )


def with_targets(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Return folders, and the files elsewhere that links in them lead to, as a Hub's cache has."""
    found: list[Path] = []
    for folder in folders:
        found.append(folder)
        entries = sorted(folder.rglob("*")) if folder.is_dir() else ()
        found += [path.resolve() for path in entries if path.is_symlink() and path.is_file()]
    return tuple(found)


def make_devices() -> None:
    """Have NVIDIA's own helper make the devices that CUDA is about to open, where they are not yet.

    After a boot they come with the first program that wants them, by a helper that gains root;
    behind a fence nothing gains rights any more, and what is not there cannot be let through.
    """
    if not _DRIVER.is_dir() or Path("/dev/nvidia-uvm").exists() or not _MODPROBE.is_file():
        return
    count = len(list((_DRIVER / "gpus").glob("*")))
    minors = [f"-c={number}" for number in range(count)]
    for arguments in (["-u", "-c=0"], minors):
        try:
            subprocess.run(
                [_MODPROBE, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_MODPROBE_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return


def _python() -> Iterator[Path]:
    # Not all of sys.path: a checkout is on it whole, with everything that lies beside the package.
    yield from map(Path, (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix))
    yield Path(llava_pack.__file__).parent
    if sys.pycache_prefix:
        yield Path(sys.pycache_prefix)


def _checkout() -> Path | None:
    folder = Path(llava_pack.__file__).parents[1]
    installed = any(folder.is_relative_to(prefix) for prefix in (sys.prefix, sys.base_prefix))
    return None if installed else folder


def _programs() -> Iterator[Path]:
    if sys.executable:
        yield Path(os.path.realpath(sys.executable))
    for pattern in _LOADERS:
        yield from Path("/").glob(pattern)


def _distinct(paths: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(paths))
