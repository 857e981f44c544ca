"""What is typed on the server for media that `carry` wrote: the lines, and what is said of them."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from llava_pack.assemble.welcome import installed_line
from llava_pack.cli import console
from llava_pack.crossing.plan import INSTALLER, CarryPlan
from llava_pack.crossing.request import CarrySource
from llava_pack.format.welcome import contact_lines


def server_lines(
    source: CarrySource, plan: CarryPlan, folders: Sequence[Path], *, repair: bool
) -> tuple[str, ...]:
    """Return the lines for the medium to begin with, as they can be pasted.

    What travels is started by its own install.sh, which knows these media, whatever is installed;
    where that is there already, so is a llava-pack that knows them.

    Args:
        source: the bundle.
        plan: of all media, at least one.
        folders: of the bundle on each.
        repair: only what the server asked for travels.
    """
    first_one = next(iter(_starting(plan)), 1)
    there = f"/path/to/{folders[first_one - 1].name}"
    index = bool(source.manifest.left_out)
    more = " --collect" if repair or len(plan.media) > 1 else ""
    if not _starting(plan):
        return (installed_line(there, plan.bundle_id, index=index) + more,)
    *first, last = contact_lines(quote(there), plan.bundle_id, index=index)
    return (*first, last + more)


def show_lines(
    source: CarrySource, plan: CarryPlan, folders: Sequence[Path], *, repair: bool
) -> None:
    """Print the lines, and say around them what they suppose."""
    console.say(_order(plan))
    for line in server_lines(source, plan, folders, repair=repair):
        console.verbatim(line)
    travels = {load.file.path for medium in plan.media for load in medium.loads}
    if not _starting(plan):
        console.say(
            "/opt/llava-pack is where root installs, any other account has "
            "~/.local/share/llava-pack; if there is only an incomplete copy of the bundle, type "
            "the lines of its START-HERE.txt, and add --bundle with this folder to the last one"
        )
    elif not repair and travels != {one.path for one in source.files()}:
        console.say(
            "what does not travel is taken from the installation there; if that is neither in "
            "/opt/llava-pack nor in ~/.local/share/llava-pack, add --prefix; if there is only an "
            "incomplete copy of the bundle, add --bundle and its folder"
        )


def _starting(plan: CarryPlan) -> list[int]:
    """Return the numbers of the media that have install.sh."""
    return [
        number
        for number, medium in enumerate(plan.media, start=1)
        if any(load.name == INSTALLER for load in medium.loads)
    ]


def _order(plan: CarryPlan) -> str:
    if len(plan.media) == 1:
        return "on the server:"
    starting = _starting(plan)
    if starting and len(starting) < len(plan.media):
        return (
            f"on the server, with medium {starting[0]}; then the last line with each of the others:"
        )
    return "on the server, with each medium in turn, in any order:"
