import json

import pytest

from llava_pack.cli import main
from llava_pack.format.errors import RecipeError
from llava_pack.recipe import find_recipe, read_recipe, recipe_names


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_sound(name):
    path = find_recipe(name)
    recipe = read_recipe(path).value
    assert recipe.name == name
    for known in recipe.known_answers:
        assert (path.parent / known.picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("llava-1.5-7b", "llava-v1.5-7b"),
        ("llava-v1.5-7B", "llava-v1.5-7b"),
        ("llava_v1.5_13b", "llava-v1.5-13b"),
        ("liuhaotian/llava-v1.5-7b", "llava-v1.5-7b"),
        ("dmeo", "demo"),
        ("mine", "mine.toml"),
        ("./mien.toml", "mine.toml"),
    ],
)
def test_an_unknown_recipe_names_the_one_that_was_meant(typed, meant, tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_bytes(find_recipe("demo").read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="did you mean ") as said:
        find_recipe(typed)
    assert meant in said.value.message
    assert "llava-pack recipes" in said.value.hint


def test_what_is_like_none_is_no_suggestion():
    with pytest.raises(RecipeError, match=r"a \.toml file$"):
        find_recipe("gpt-9")


def test_recipes_are_listed_with_those_of_the_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.toml").write_bytes(find_recipe("demo").read_bytes())
    (tmp_path / "pyproject.toml").write_text("[project]")
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["recipes"]
    assert [row["recipe"] for row in rows] == [*recipe_names(), "mine.toml"]
    [row] = [row for row in rows if row["recipe"] == "llava-v1.5-7b"]
    assert (row["fetch_bytes"], row["nf4_memory_bytes"]) == (15_200_000_000, 8_100_000_000)
    assert (row["licence"], row["gated"]) == ("Llama-2-Community", True)
    assert main(["recipes"]) == 0
    said = capsys.readouterr()
    assert "llava-v1.5-7b                        15.2 GB      8.1 GB  Llama-2-Co" in said.out
    assert "mine.toml                            unknown" in said.out
    assert max(map(len, said.out.splitlines())) <= 100


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
