"""Terms of use: nobody builds with a gated model unless they said yes to its licence by name."""

import pytest

from llava_pack.assemble.terms import check_accepted, gated, licence_entries, render_terms
from llava_pack.format.errors import AccessError, UsageError
from llava_pack.recipe import find_recipe, read_recipe, recipe_names

LLAMA = "Llama-2-Community"
OPEN = ("Apache-2.0", "MIT")


@pytest.fixture(scope="module")
def adapter():
    return read_recipe(find_recipe("llava-v1.5-7b-lora")).value


def test_every_shipped_recipe_whose_licence_has_terms_asks():
    licences = {name: read_recipe(find_recipe(name)).value.licence.id for name in recipe_names()}
    asking = {name for name in recipe_names() if gated(read_recipe(find_recipe(name)).value)}
    assert asking == {name for name, licence in licences.items() if licence not in OPEN}
    assert {licences[name] for name in asking} > {LLAMA, "Llama-3-Community"}
    assert "demo" not in asking


def test_without_a_yes_it_is_12_with_the_command(adapter):
    with pytest.raises(AccessError) as refused:
        check_accepted(adapter, (), "llava-pack build x")
    assert refused.value.exit_code == 12
    assert refused.value.hint.endswith(f"run: llava-pack build x --accept-license {LLAMA}")
    assert "https://ai.meta.com/llama/license/" in refused.value.hint


def test_a_yes_to_something_else_is_2(adapter):
    with pytest.raises(UsageError, match="Llama-2-Community, got MIT"):
        check_accepted(adapter, (LLAMA, "MIT"))


def test_what_is_not_gated_needs_no_yes():
    check_accepted(read_recipe(find_recipe("demo")).value, ())


def test_model_and_base_are_recorded(adapter):
    entries = licence_entries(adapter, (LLAMA,))
    assert [(one.model, one.id, one.accepted) for one in entries] == [
        ("llava-v1.5-7b-lora", LLAMA, True),
        ("vicuna-7b-v1.5", LLAMA, True),
    ]
    text = render_terms(adapter, (LLAMA,)).decode()
    assert text.count("its terms were accepted when this bundle was built") == 2
