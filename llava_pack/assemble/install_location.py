"""Where on a target a bundle would be installed, and whether it fits. Pure."""

from dataclasses import replace

from llava_pack.format.target import FloorFinding
from llava_pack.lock.profile import Disk, TargetProfile

_ROOT_PREFIX = "/opt"


def choose_place(target: TargetProfile, needed_bytes: int) -> Disk | None:
    """Return the disk of the default prefix, else one that is large enough, else the default.

    A disk that this account cannot write, or on which programs may not run, is not chosen.
    """
    default = default_place(target)
    if default is not None and _fits(default, needed_bytes):
        return default
    others = [disk for disk in target.disks or () if _fits(disk, needed_bytes)]
    best = max(others, key=lambda disk: disk.free_bytes or 0, default=None)
    return best or default


def default_place(target: TargetProfile) -> Disk | None:
    """Return where install.sh goes by itself: /opt as root, else the home."""
    wanted = _ROOT_PREFIX if target.uid == 0 else target.home
    return next((disk for disk in target.disks or () if disk.path == wanted), None)


def place_finding(found: FloorFinding, target: TargetProfile, needed_bytes: int) -> FloorFinding:
    """Return the finding about disk space with the place, and the --prefix to type, in it.

    Args:
        found: what `check_floors` says of the free bytes of the chosen place.
        target: the facts.
        needed_bytes: what bundle and installation take.
    """
    place, default = choose_place(target, needed_bytes), default_place(target)
    if place is None:
        return found
    value = f"{found.value} at {place.path}"
    if found.level == "fail":
        short = needed_bytes - (place.free_bytes or 0)
        return replace(found, value=value, fix=f"free {short} bytes there, or add a disk")
    if default is None or default.path == place.path:
        return replace(found, value=value)
    fix = f"copy the bundle there and install with --prefix {place.path.rstrip('/')}/llava-pack"
    have = f"only {default.free_bytes or 0} bytes at {default.path}, but {value}"
    return replace(found, level="warn", value=have, fix=fix)


def _fits(disk: Disk, needed_bytes: int) -> bool:
    return bool(disk.writable) and not disk.noexec and (disk.free_bytes or 0) >= needed_bytes
