import pytest

from llava_pack.assemble.packing import Packing, choose_packing
from llava_pack.assemble.recipe_template import check_named
from llava_pack.format.errors import RecipeError, UsageError
from llava_pack.recipe import find_recipe, read_recipe, recipe_names


def recipe(name: str):
    return read_recipe(find_recipe(name)).value


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        ("llava-v1.5-7b", {}, Packing()),
        ("llava-v1.5-7b", {"wanted": "hf"}, Packing(format="hf")),
        ("llava-v1.5-7b", {"precision": "nf4"}, Packing(format="hf", precision="nf4")),
        ("llava-v1.5-7b-lora", {}, Packing()),
        ("llava-v1.5-7b-lora", {"merge": True}, Packing(merge=True)),
        ("llava-v1.5-7b-lora", {"wanted": "hf"}, Packing(format="hf", merge=True)),
        ("llava-1.5-7b-hf", {}, Packing(format="hf", converted=True)),
        ("llava-1.5-7b-hf", {"wanted": "hf"}, Packing(format="hf", converted=True)),
    ],
)
def test_what_is_asked_for_decides_the_layout(name, asked, expected):
    assert choose_packing(recipe(name), **asked) == expected


@pytest.mark.parametrize(
    ("name", "asked", "subject"),
    [
        ("llava-1.5-7b-hf", {"precision": "nf4"}, "--quantize nf4"),
        ("llava-1.5-7b-hf", {"wanted": "original"}, "--format"),
        ("llava-1.5-7b-hf", {"merge": True}, "--merge"),
        ("llava-v1.5-7b", {"merge": True}, "--merge"),
        ("llava-v1.5-7b", {"wanted": "original", "precision": "int8"}, "--format original"),
    ],
)
def test_what_cannot_be_is_refused(name, asked, subject):
    with pytest.raises(UsageError) as caught:
        choose_packing(recipe(name), **asked)
    assert caught.value.subject == subject


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'conv_mode = "llava_v1"',
            'conv_mode = "llava_v1"\nformat = "hf"',
            "includes its vision tower",
        ),
        ('name = "clip-demo"', 'name = "Llava-V1-Demo"', "must differ"),
        ('conv_mode = "llava_v1"', 'conv_mode = "llava_v1"\nvalues = {a = 1}', "model.base"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, old, new, said):
    text = find_recipe("demo").read_text()
    assert old in text
    (tmp_path / "bad.toml").write_text(text.replace(old, new))
    with pytest.raises(RecipeError, match=said):
        read_recipe(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("conv_mode", "said"),
    [
        ("vicuna_v9", "unknown conversation template 'vicuna_v9', expected one of: chat_template"),
        ("raw", "special tokens"),
        ("chat_template", "format 'hf'"),
    ],
)
def test_a_template_that_a_bundle_cannot_have_is_refused(conv_mode, said):
    found = recipe("demo")
    wanted = found.model_copy(
        update={"model": found.model.model_copy(update={"conv_mode": conv_mode})}
    )
    with pytest.raises(RecipeError, match=said) as caught:
        check_named(wanted, Packing())
    assert caught.value.subject == "demo: model.conv_mode"


@pytest.mark.parametrize("name", recipe_names())
def test_the_templates_of_the_shipped_recipes_are_taken(name):
    found = recipe(name)
    check_named(found, choose_packing(found))
