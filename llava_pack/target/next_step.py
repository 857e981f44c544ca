"""What to type next: who serves what was installed, or how a server that runs is reached."""

import os
import pwd
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llava_pack.target import generations, ownership, serving

ACCOUNT = "llava"
"""Proposed for a service of root's."""
_SYSTEMD = Path("/run/systemd/system")
_OTHERS_ENTER = 0o001


@dataclass(frozen=True)
class NextStep:
    """A command, to be pasted into a shell."""

    command: str
    """Begins with absolute paths or programs of the system."""
    why: str = ""
    """Said before it, where it is not plain `serve`."""


def next_step(prefix: Path, recipe: str | None = None, *, systemd: Path = _SYSTEMD) -> NextStep:
    """Return what to do after a change: reach what serves already, else have it served.

    Args:
        prefix: absolute.
        recipe: what was changed; None for how to serve, whatever runs.
        systemd: a folder that is there where systemd runs.
    """
    program = shlex.quote(str(prefix / "bin" / "llava-pack"))
    if recipe is not None and (old := next(serving.outdated(prefix, recipe), None)):
        why = f"! process {old} still serves the version before; as the account that started it:"
        return NextStep(f"{program} stop && {program} serve", why)
    if recipe is not None and any(serving.claims(prefix, recipe)):
        served = f"generation {generations.current_number(prefix, recipe)} is being served"
        return NextStep(f"{program} tunnel", f"{served}; `tunnel` prints how a laptop reaches it")
    if os.geteuid() != 0:
        return NextStep(f"{program} serve")
    if why := _why_root(prefix, systemd):
        why = f"! root has to serve it itself: {why}; an ordinary account could also install it"
        return NextStep(f"{program} serve --as-root", why)
    made = "" if _exists(ACCOUNT) else f"useradd --system --shell /usr/sbin/nologin {ACCOUNT} && "
    install = f"{program} service install --account {ACCOUNT}"
    return NextStep(made + install, f"it serves as an account of its own, {ACCOUNT}, not as root")


def _why_root(prefix: Path, systemd: Path) -> str:
    """Return why no other account can serve what root installed, empty where one can."""
    if not systemd.is_dir():
        return "systemd, which could run it as another account, is not running"
    folders = [place for place in ownership.way(prefix) if place.is_dir()]
    if shut := [place for place in folders if not place.stat().st_mode & _OTHERS_ENTER]:
        return f"no other account can enter {shut[0]}"
    return ""


def _exists(account: str) -> bool:
    with suppress(KeyError):
        pwd.getpwnam(account)
        return True
    return False
