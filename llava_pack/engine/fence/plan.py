"""The fences of all that reads what strangers send: what each of them needs. Pure.

What is listed was seen with `strace` over the demo model on a CPU. What CUDA opens beside is from
reports of others (docs/decisions/0019-fences-by-ctypes.md): generous for devices, for no GPU has
run behind this yet; nothing of it holds what people keep.
"""

from collections.abc import Iterable
from pathlib import Path

from llava_pack.engine.fence.place import Place
from llava_pack.engine.fence.value import Fence

_SYSTEM = (
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/os-release",
    "/etc/mime.types",
    "/etc/ssl/openssl.cnf",
    "/etc/ssl/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust",
    "/etc/crypto-policies",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
)
"""Programs, libraries and facts of the machine: the same for every account of it."""
_OWN_PROC = ("maps", "smaps_rollup", "status", "stat", "statm", "limits", "cgroup", "mountinfo")
"""Of the process itself; not its environment, its memory, or its descriptors."""
_PROC = (
    *(f"/proc/self/{name}" for name in _OWN_PROC),
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/version",
    "/proc/filesystems",
    "/proc/sys/vm",
    "/proc/sys/kernel",
)
_GPU_READ = (
    "/proc",
    "/sys/devices",
    "/sys/class",
    "/sys/bus",
    "/sys/module",
    "/sys/dev",
    "/etc/nvidia",
    "/etc/alternatives",
    "/run/nvidia-persistenced",
    "/run/nvidia-fabricmanager",
)
_GPU_RUN = ("/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/lib", "/lib", "/lib64")
_GPU_WRITE = ("/dev/shm",)  # noqa: S108 - CUDA's own shared memory
_GPU_DEVICES = ("/proc/self/task",)
"""The driver names its threads there, and fails where it cannot."""
_NULL = ("/dev/null",)


def engine_fence(place: Place, model: Iterable[Path], home: Path, *, gpu: bool) -> Fence:
    """Return the fence of an engine: its model, its Python, one private folder, and no network.

    Args:
        place: where it runs.
        model: folders and files of the checkpoint.
        home: the private folder.
        gpu: whether it may compute on a GPU; without, it starts no program either.
    """
    read = (*place.python, *_paths(_SYSTEM), *model)
    if not gpu:
        return Fence(
            read=(*read, *_paths(_PROC)), write=(home,), devices=_paths(_NULL), sockets="none"
        )
    pipes = () if place.mps is None else (place.mps,)
    return Fence(
        read=(*read, *place.libraries, *_paths(_GPU_READ)),
        run=(*place.programs, *_paths(_GPU_RUN)),
        write=(home, *_paths(_GPU_WRITE)),
        devices=(*place.devices, *pipes, *_paths((*_NULL, *_GPU_DEVICES))),
        # The driver listens, and has to be asked for nothing but by MPS, which is connected to.
        sockets="unix" if pipes else "listen",
        starts=True,
        driver=True,
    )


def gateway_fence(
    place: Place,
    *,
    home: Path,
    read: Iterable[Path] = (),
    write: Iterable[Path] = (),
) -> Fence:
    """Return the fence of a gateway: its Python, its log, and Unix sockets.

    It listens on a socket that was handed over, and may start its own interpreter, to decode.

    Args:
        place: where it runs.
        home: a private folder for whatever else is written.
        read: what else is read.
        write: which other folders are written, such as the log's.
    """
    return Fence(
        read=(*place.python, *_paths(_SYSTEM), *_paths(_PROC), *read),
        run=place.programs,
        write=(home, *write),
        devices=_paths(_NULL),
        names=() if place.checkout is None else (place.checkout,),
        sockets="unix",
        starts=True,
    )


def decoder_fence(place: Place) -> Fence:
    """Return the fence of what decodes a picture: nothing to write, to reach, or to start.

    Args:
        place: where it runs.
    """
    return Fence(read=(*place.python, *_paths(_SYSTEM), *_paths(_PROC)), devices=_paths(_NULL))


def _paths(names: Iterable[str]) -> tuple[Path, ...]:
    return tuple(map(Path, names))
