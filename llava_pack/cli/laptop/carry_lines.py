"""What is typed on the server for media that `carry` wrote: the lines, and what is said of them."""

from shlex import join, quote

from llava_pack.cli import console
from llava_pack.crossing.plan import CarryPlan
from llava_pack.crossing.request import CarrySource
from llava_pack.format.welcome import contact_lines

_INSTALLER = "install.sh"
_PREFIX = "/opt/llava-pack"


def server_lines(
    source: CarrySource, plan: CarryPlan, folder: str, *, repair: bool = False
) -> tuple[str, ...]:
    """Return the lines for the first medium, as they can be pasted.

    What travels is started by its own install.sh, which knows these media, whatever is installed;
    where that is there already, so is a llava-pack that knows them.

    Args:
        source: the bundle.
        plan: of all media, at least one.
        folder: of the first one, by its name.
        repair: only what the server asked for travels.
    """
    there = f"/path/to/{folder}"
    index = bool(source.manifest.left_out)
    more = " --collect" if repair or len(plan.media) > 1 else ""
    if not _starting(plan)[0]:
        program = f"{_PREFIX}/bin/llava-pack"
        named = " --index URL" if index else ""
        return (join([program, "install", there, "--expect", plan.bundle_id]) + named + more,)
    *first, last = contact_lines(quote(there), plan.bundle_id, index=index)
    return (*first, last + more)


def show_lines(source: CarrySource, plan: CarryPlan, folder: str, *, repair: bool) -> None:
    """Print the lines, and say around them what they suppose."""
    console.say(_order(plan))
    for line in server_lines(source, plan, folder, repair=repair):
        console.verbatim(line)
    travels = {load.file.path for medium in plan.media for load in medium.loads}
    if not _starting(plan)[0]:
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


def _starting(plan: CarryPlan) -> list[bool]:
    """Say of each medium whether install.sh is on it."""
    return [any(load.name == _INSTALLER for load in medium.loads) for medium in plan.media]


def _order(plan: CarryPlan) -> str:
    starting = _starting(plan)
    if len(starting) == 1:
        return "on the server:"
    if starting[0] and not all(starting):
        return "on the server, with medium 1; then the last line with each of the others:"
    return "on the server, with each medium in turn, in any order:"
