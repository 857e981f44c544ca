import pytest

from llava_pack.format.errors import RecipeError
from llava_pack.recipe import find_recipe, read_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_sound(name):
    path = find_recipe(name)
    recipe = read_recipe(path).value
    assert recipe.name == name
    for known in recipe.known_answers:
        assert (path.parent / known.picture).read_bytes().startswith(b"\x89PNG")


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(RecipeError, match=r"unknown recipe.*demo.*llava-v1\.5-7b"):
        find_recipe("llava-v9")


@pytest.mark.parametrize("name", ["../demo", "demo/../demo", "", "demo.toml.toml"])
def test_a_name_is_no_path(name):
    with pytest.raises(RecipeError, match="unknown recipe"):
        find_recipe(name)


def test_every_defect_is_named_at_once(tmp_path):
    text = find_recipe("demo").read_text()
    text = text.replace('name = "clip-demo"', 'name = "../clip"').replace('"nf4"', '"nf5"')
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_recipe(find_recipe(str(tmp_path / "bad.toml")))
    assert "vision_tower.name" in str(caught.value)
    assert "serving.precision" in str(caught.value)


def test_what_is_no_toml_is_refused(tmp_path):
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(RecipeError, match="not TOML"):
        read_recipe(tmp_path / "bad.toml")
