"""The shipped recipes of models that llava-pack's own engine does not run."""

import math

import pytest

from llava_pack.assemble.packing import choose_packing
from llava_pack.checkpoint.elsewhere import own_defects, served_elsewhere
from llava_pack.checkpoint.footprint import Parameters, memory_bytes
from llava_pack.checkpoint.internvl import internvl
from llava_pack.checkpoint.kind import classify
from llava_pack.checkpoint.native import stored_values
from llava_pack.checkpoint.templates import OWN
from llava_pack.profiles.loads import LOADS
from llava_pack.recipe import find_recipe, known_recipes, read_recipe
from tests.unit.recipes.others import OTHERS

RECIPES = {name: read_recipe(find_recipe(name)).value for name in OTHERS}


@pytest.mark.parametrize("name", OTHERS)
def test_what_it_asks_for_is_of_the_kind_that_is_published(name):
    recipe, known = RECIPES[name], OTHERS[name]
    assert classify(known.names, known.published) is known.kind
    asked = {file.path for file in recipe.model.files}
    assert asked
    assert asked <= set(known.names)
    assert any("no list was available" in text for text in recipe.unverified)
    assert (recipe.model.format, recipe.model.conv_mode) == ("hf", OWN)
    assert choose_packing(recipe).format == "hf"


@pytest.mark.parametrize("name", OTHERS)
def test_it_has_as_many_parameters_as_its_card_says(name):
    shapes = internvl(OTHERS[name].chat).shapes()
    total = sum(math.prod(shape) for shape in shapes.values())
    assert total / 1e9 == pytest.approx(OTHERS[name].billions, abs=0.006)


@pytest.mark.parametrize("name", OTHERS)
def test_the_sizes_that_are_listed_are_those_of_the_configuration(name):
    known, recipe = OTHERS[name], RECIPES[name]
    fetch = 2 * sum(math.prod(shape) for shape in internvl(known.chat).shapes().values())
    sizes = stored_values(known.kind, known.published)
    context = recipe.serving.context_tokens
    memory = memory_bytes(Parameters(stored_bytes=fetch), sizes, context_tokens=context, slots=1)
    [listed] = [one for one in known_recipes() if one.name == name]
    assert listed.sizes.fetch_bytes == pytest.approx(fetch, abs=6e7)
    assert listed.sizes.nf4_bytes == pytest.approx(memory["nf4"], abs=6e7)


@pytest.mark.parametrize("name", OTHERS)
def test_other_runtimes_serve_it_and_llava_packs_own_says_which(name):
    known = OTHERS[name]
    assert served_elsewhere(known.kind, known.published, LOADS) == ["vllm", "lmdeploy"]
    (defect,) = own_defects(known.kind, known.published)
    assert defect.hint == "--runtime vllm or --runtime lmdeploy serves it"
