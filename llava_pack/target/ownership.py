"""Who can change a place: this account and the system, and nobody else, from `/` on.

Another account that owns a folder, or can write it, puts whatever it likes in the place of what is
there. So what is run, written or believed under a prefix is as safe as every folder and every link
on the way to it; all of them are looked at, as the kernel walks them.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from llava_pack.format.errors import PreflightError

_LINKS = 40  # Source: path_resolution(7)
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_WITHIN = (
    *("bin", "bin/llava-pack", "place", "lock", "store", "trust", "models", "models/*"),
    *("models/*/generations", "models/*/generations/*", "journal.json", "handover.json"),
)
"""Of a prefix, what is run, written or believed; run states and logs may be a service's."""


def check_prefix(prefix: Path, uid: int | None = None) -> None:
    """Refuse a prefix in which another account could change what is run, written or believed.

    Args:
        prefix: absolute; what is not there yet is no danger.
        uid: of who is to use it, this account by default.

    Raises:
        PreflightError: naming the place, whose it is, and what fixes it.
    """
    check(prefix, uid)
    links = (path for path in prefix.glob("models/*/current") if path.is_symlink())
    for place in (*(found for name in _WITHIN for found in prefix.glob(name)), *links):
        facts = place.lstat()
        if stat.S_ISLNK(facts.st_mode) and place.name != "current":
            raise _refusal(place, "it is a link, expected none there", f"check it: ls -l {place}")
        _judge(place, facts, uid, home=True)


def check(path: Path, uid: int | None = None) -> None:
    """Refuse a path that leads through a place which another account owns or can write.

    Raises:
        PreflightError: naming the place.
    """
    for place, facts, last in _way(path):
        _judge(place, facts, uid, home=last)


def way(path: Path) -> tuple[Path, ...]:
    """Return every folder and link on the way to a path."""
    return tuple(place for place, _, _ in _way(path))


def own_folder(folder: Path) -> bool:
    """Say whether a folder is this account's own, and writable by no other."""
    with suppress(OSError):
        facts = folder.lstat()
        mine = facts.st_uid == os.geteuid() and not facts.st_mode & _OTHERS
        return stat.S_ISDIR(facts.st_mode) and mine
    return False


def opened(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a plain file of this account, or root's, and return its descriptor; follow no link.

    Raises:
        PreflightError: it is a link, no plain file, another account's, or others can write it.
        OSError: it cannot be opened.
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    look = f"check it: ls -l {path}"
    try:
        descriptor = os.open(path, flags, mode)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise _refusal(path, "it is a link, expected a file of this account", look) from error
    facts = os.fstat(descriptor)
    mine = facts.st_uid in {os.geteuid(), 0} and not facts.st_mode & _OTHERS
    if stat.S_ISREG(facts.st_mode) and mine:
        return descriptor
    os.close(descriptor)
    raise _refusal(path, f"expected a file of this account alone, got {_whose(facts)}", look)


def account(uid: int | None) -> str:
    """Return the name of an account, or its number."""
    import pwd

    try:
        return "an unknown account" if uid is None else pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"account {uid}"


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result, bool]]:
    """Yield every place on the way to a path, and whether it is the end; none that is missing."""
    here = Path("/")
    rest = list(reversed(path.parts[1:]))
    links = 0
    yield here, here.lstat(), not rest
    while rest:
        name = rest.pop()
        if name == "..":
            here = here.parent
            continue
        try:
            facts = (here / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return
        link = stat.S_ISLNK(facts.st_mode)
        yield here / name, facts, not rest and not link
        if not link:
            here /= name
            continue
        if (links := links + 1) > _LINKS:
            raise _refusal(path, "too many links on the way to it", "pass the path itself")
        target = (here / name).readlink()
        if target.is_absolute():
            here = Path("/")
        rest += reversed([part for part in target.parts if part != "/"])


def _judge(place: Path, facts: os.stat_result, uid: int | None, *, home: bool) -> None:
    """Refuse one place; a sticky folder is safe to pass, and not safe to be at `home` in.

    The system is whoever owns `/`: root, or in a namespace where root has no number, its stand-in.
    """
    own = os.geteuid() if uid is None else uid
    if facts.st_uid not in {own, 0, Path("/").lstat().st_uid}:
        wanted = "root" if own == 0 else f"{account(own)} or root"
        fix = f"run this as {account(facts.st_uid)}, or choose another folder with --prefix"
        raise _refusal(place, f"it belongs to {account(facts.st_uid)}, expected {wanted}", fix)
    sticky = not home and facts.st_mode & stat.S_ISVTX
    if stat.S_ISLNK(facts.st_mode) or sticky or not facts.st_mode & _OTHERS:
        return
    if facts.st_mode & stat.S_IWOTH or not _private(place, facts):
        fix = f"chmod go-w '{place}', or choose another folder with --prefix"
        raise _refusal(place, f"other accounts can write to it: {_whose(facts)}", fix)


def _private(place: Path, facts: os.stat_result) -> bool:
    """Say whether the group that can write a place is the owner alone, as umask 002 supposes.

    With an access control list the group's bits stand for whoever the list names.
    """
    import grp
    import pwd

    try:
        owner = pwd.getpwuid(facts.st_uid)
        group = grp.getgrgid(facts.st_gid)
        listed = "system.posix_acl_access" in os.listxattr(place, follow_symlinks=False)
    except KeyError:
        return False
    except (OSError, AttributeError):  # a file system, or a system, without such lists
        listed = False
    own = owner.pw_uid == owner.pw_gid == facts.st_gid and {*group.gr_mem} <= {owner.pw_name}
    users = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_gid == facts.st_gid}
    return own and not listed and users <= {owner.pw_uid}


def _whose(facts: os.stat_result) -> str:
    mode = stat.S_IMODE(facts.st_mode)
    return f"mode {mode:04o}, of {account(facts.st_uid)}, group {facts.st_gid}"


def _refusal(place: Path, why: str, fix: str) -> PreflightError:
    return PreflightError(
        f"another account could change the programs run here: {why}",
        subject=str(place),
        hint=fix,
    )
