"""`llava-pack recipes`: what can be built, how large it is, and what its licence asks."""

from typing import TYPE_CHECKING, Any

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson
from llava_pack.cli.language import translated
from llava_pack.cli.progress_line import padded
from llava_pack.format.text import human_bytes

if TYPE_CHECKING:
    from llava_pack.recipe import KnownRecipe


def recipes(
    as_json: AsJson = False,
) -> None:
    """List the recipes: size, GPU memory, licence.

    The shipped ones, and the .toml recipes of this folder. No network is used. The size is that of
    the weights as they are published, the vision tower's among them; the packages add about 3 GB.
    GPU memory is that of one request in nf4, at the context length of the recipe. Exact figures for
    one server: `plan`.

    \b
    Examples:
      llava-pack recipes
      llava-pack recipes --json
      llava-pack plan llava-v1.5-7b --target gpu01.json
    """
    from llava_pack.recipe import known_recipes

    found = known_recipes()
    if as_json:
        console.document("recipes", {"recipes": [_facts(one) for one in found]})
        return
    heads = translated("to fetch"), translated("GPU memory"), translated("licence")
    console.verbatim(_row(translated("recipe"), *heads))
    for one in found:
        licence = one.recipe.licence
        terms = translated(f"{licence.id}, gated") if licence.gated else licence.id
        sizes = one.sizes
        fetch = translated("unknown") if sizes is None else _to_fetch(sizes.fetch_bytes)
        memory = translated("unknown") if sizes is None else human_bytes(sizes.nf4_bytes)
        console.verbatim(_row(one.name, fetch, memory, terms))
        console.verbatim(f"  {one.recipe.title}")
    console.say("gated: its terms of use have to be accepted before anything is fetched")
    console.say("next: llava-pack plan RECIPE; docs/reference/recipes.md describes each")


def _row(name: str, fetch: str, memory: str, terms: str) -> str:
    """Return a line of the table."""
    return f"{padded(name, 34)}{padded(fetch, -10)}{padded(memory, -12)}  {terms}"


def _to_fetch(size_bytes: int) -> str:
    return human_bytes(size_bytes) if size_bytes else translated("included")


def _facts(known: "KnownRecipe") -> dict[str, Any]:
    recipe, sizes = known.recipe, known.sizes
    return {
        "recipe": known.name,
        "title": recipe.title,
        "fetch_bytes": None if sizes is None else sizes.fetch_bytes,
        "nf4_memory_bytes": None if sizes is None else sizes.nf4_bytes,
        "precision": recipe.serving.precision,
        "context_tokens": recipe.serving.context_tokens,
        "licence": recipe.licence.id,
        "licence_url": recipe.licence.url,
        "gated": recipe.licence.gated,
        "source": recipe.model.source,
    }
