"""What a target keeps: the way to the installer, and the commands over installed versions."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson, Prefix, RecipeName
from llava_pack.format.text import human_bytes
from llava_pack.installation.prefix import chosen_prefix, own_prefix

if TYPE_CHECKING:
    from llava_pack.installation.removal import Freed
    from llava_pack.target.generations import Generation


def generations(recipe: RecipeName = None, prefix: Prefix = None, as_json: AsJson = False) -> None:
    """List the installed versions of each model.

    An asterisk marks the active version.

    \b
    Examples:
      llava-pack generations
      llava-pack generations --recipe llava-v1.5-7b --json
    """
    from llava_pack.target.generations import listing

    place = chosen_prefix(prefix)
    rows = [_row(item) for item in listing(place, recipe)]
    if as_json:
        console.document("generations", {"prefix": str(place), "generations": rows})
        return
    for row in rows:
        mark = "*" if row["current"] else " "
        size = human_bytes(row["size_bytes"])
        console.verbatim(f"{mark} {row['recipe']} {row['generation']}  {size}  {row['bundle_id']}")
    if not rows:
        console.say(f"nothing is installed under {place}")


def revert(
    recipe: RecipeName = None,
    generation: Annotated[
        int | None,
        typer.Option(
            min=1, help="Generation to activate. Default: the one before the current one."
        ),
    ] = None,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Revert to an earlier installed version of a model.

    \b
    Examples:
      llava-pack revert
      llava-pack revert --recipe llava-v1.5-7b --generation 3
    """
    place = own_prefix(prefix)
    from llava_pack.installation.removal import revert as revert_to
    from llava_pack.target.next_step import next_step

    item = revert_to(place, recipe, generation, console.progress())
    if as_json:
        console.document("revert", _row(item))
        return
    following = next_step(place, item.recipe)
    if following.why:
        console.say(following.why)
    console.say(f"{item.recipe} generation {item.number} is active; next:")
    console.verbatim(following.command)


def gc(
    keep: Annotated[int, typer.Option(min=1, help="Versions of each model to keep.")] = 2,
    prefix: Prefix = None,
    as_json: AsJson = False,
) -> None:
    """Remove old versions, and files that no version needs.

    \b
    Examples:
      llava-pack gc
      llava-pack gc --keep 1
    """
    place = own_prefix(prefix)
    from llava_pack.installation.removal import gc as collect

    _show("gc", collect(place, console.progress(), keep=keep), as_json=as_json)


def uninstall(recipe: RecipeName = None, prefix: Prefix = None, as_json: AsJson = False) -> None:
    """Remove one model, or everything under the prefix.

    \b
    Examples:
      llava-pack uninstall --recipe llava-v1.5-7b
      llava-pack uninstall
    """
    place = own_prefix(prefix)
    from llava_pack.installation.removal import uninstall as remove

    freed = remove(place, recipe, console.progress())
    if not freed.generations and not freed.store_bytes:
        console.say(f"{recipe or 'nothing'} is {'not ' if recipe else ''}installed under {place}")
    _show("uninstall", freed, as_json=as_json)


def _row(item: "Generation") -> dict[str, Any]:
    names = ("recipe", "generation", "bundle_id", "release", "installed_at", "size_bytes")
    return {"current": item.current, **{name: getattr(item.receipt, name) for name in names}}


def _show(kind: str, freed: "Freed", *, as_json: bool) -> None:
    if as_json:
        facts = {"generations": list(freed.generations), "store_bytes": freed.store_bytes}
        console.document(kind, facts)
        return
    names = ", ".join(freed.generations) or "no version"
    console.data(f"removed {names}, and {human_bytes(freed.store_bytes)} of stored files")
