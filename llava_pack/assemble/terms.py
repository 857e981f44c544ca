"""The terms of use of what is packed: shown before a download, accepted by a person, recorded."""

from collections.abc import Collection, Iterator

from llava_pack.format.errors import AccessError, UsageError
from llava_pack.format.manifest import LicenceEntry
from llava_pack.recipe import Licence, Recipe

PATH = "licenses/TERMS.txt"


def parts_under_terms(recipe: Recipe) -> Iterator[tuple[str, Licence]]:
    """Yield the models of a recipe whose licence it states, by their folders' names."""
    model = recipe.model
    yield model.name, recipe.licence
    for part in (model.base, recipe.vision_tower):
        if part is not None and part.licence is not None:
            yield part.name, part.licence


def gated(recipe: Recipe) -> dict[str, Licence]:
    """Return the licences that have to be accepted, by their ids."""
    return {one.id: one for _, one in parts_under_terms(recipe) if one.gated}


def check_accepted(
    recipe: Recipe, accepted: Collection[str], command: str = "the same command"
) -> None:
    """Refuse a build whose terms nobody accepted, or an acceptance of other terms.

    Raises:
        AccessError: a licence has to be accepted first.
        UsageError: what is accepted is no licence of this recipe.
    """
    known = {one.id for _, one in parts_under_terms(recipe)}
    if strangers := sorted(set(accepted) - known):
        raise UsageError(
            f"{recipe.name} is under {', '.join(sorted(known))}, got {', '.join(strangers)}",
            subject="--accept-license",
        )
    missing = [one for name, one in gated(recipe).items() if name not in accepted]
    if missing:
        options = " ".join(f"--accept-license {one.id}" for one in missing)
        urls = ", ".join(one.url for one in missing)
        raise AccessError(
            f"its licence has to be accepted first: {', '.join(one.id for one in missing)}",
            subject=recipe.name,
            hint=f"read {urls}, then run: {command} {options}",
        )


def licence_entries(recipe: Recipe, accepted: Collection[str]) -> tuple[LicenceEntry, ...]:
    """Return what the manifest says of the licences, the model's own first."""
    return tuple(
        LicenceEntry(
            id=one.id,
            url=one.url,
            gated=one.gated,
            accepted=one.gated and one.id in accepted,
            model=name,
        )
        for name, one in parts_under_terms(recipe)
    )


def render_terms(recipe: Recipe, accepted: Collection[str]) -> bytes:
    """Return `licenses/TERMS.txt`: which model is under which licence, and what was accepted."""
    lines = ["Terms of use of the models in this bundle, as stated in its recipe.", ""]
    for name, licence in parts_under_terms(recipe):
        lines += [f"{name}: {licence.id}", f"  {licence.url}"]
        if licence.gated:
            said = "accepted" if licence.id in accepted else "not accepted"
            lines.append(f"  its terms were {said} when this bundle was built")
    lines += ["", "The publishers' own texts are in this folder; those of the packages are in"]
    lines += ["wheels/, under the names of the packages' files."]
    return "".join(f"{line}\n" for line in lines).encode()
