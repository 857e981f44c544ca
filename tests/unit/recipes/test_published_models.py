"""The shipped recipes against what is known of the repositories that they name."""

import math

import pytest

from llava_pack.checkpoint.converted import as_original, converted_tower
from llava_pack.checkpoint.expected import language_shapes, projector_shapes, tower_shapes
from llava_pack.checkpoint.findings import pair_defects
from llava_pack.checkpoint.footprint import count_parameters, memory_bytes
from llava_pack.checkpoint.kind import Kind, classify
from llava_pack.checkpoint.servable import engine_defects
from llava_pack.checkpoint.template_choice import by_name
from llava_pack.checkpoint.templates import TEMPLATES
from llava_pack.checkpoint.weight_set import find_weights
from llava_pack.convert.native_config import native_config
from llava_pack.convert.native_form import native_form
from llava_pack.recipe import Recipe, find_recipe, known_recipes, read_recipe, recipe_names
from tests.unit.recipes.others import OTHERS
from tests.unit.recipes.recorded import (
    CLIP_BASE_32,
    CLIP_LARGE_336,
    COMPUTED_CONFIGS,
    COMPUTED_FILES,
    CONFIGS,
    FILES,
    PREPROCESSORS,
    PUBLISHED_GB,
    SIGLIP_PREPROCESSOR,
    TINY_LLAMA,
    WEIGHT_BYTES,
)

NAMES = tuple(name for name in recipe_names() if name not in {"demo", *OTHERS})
RECIPES = {name: read_recipe(find_recipe(name)).value for name in NAMES}
TOKENS = {"<image>": 32000, "<pad>": 32001}


def repository(recipe: Recipe) -> str:
    return recipe.model.source.removeprefix("hf:").partition("@")[0]


LISTS = FILES | COMPUTED_FILES
RECORDED = {name: LISTS[repository(recipe)] for name, recipe in RECIPES.items()}
ALL_CONFIGS = CONFIGS | COMPUTED_CONFIGS
CONVERTED = [name for name, config in ALL_CONFIGS.items() if "text_config" in config]
LLAVAS = [name for name in ALL_CONFIGS if name not in CONVERTED]
COMPUTED = [name for name in NAMES if repository(RECIPES[name]) in COMPUTED_FILES]
WHOLE = [name for name in NAMES if RECIPES[name].model.base is None]
KINDS = {
    **{name: Kind.CONVERTED for name in NAMES if repository(RECIPES[name]) in CONVERTED},
    "llava-budget": Kind.PROJECTOR,
}


def test_every_family_has_a_recipe():
    assert set(NAMES) >= {
        "llava-v1.5-7b",
        "llava-v1.5-13b",
        "llava-v1.6-vicuna-7b",
        "llava-v1.6-vicuna-13b",
        "llava-v1.6-mistral-7b",
        "llava-v1.6-34b",
        "llava-1.5-7b-hf",
        "llava-v1.5-7b-lora",
        "llava-budget",
        "llava-v1.6-mistral-7b-hf",
        "llava-v1.6-vicuna-7b-hf",
        "llava-1.5-13b-hf",
        "llava-onevision-qwen2-0.5b-ov-hf",
        "llava-onevision-qwen2-7b-ov-hf",
        "llava-interleave-qwen-0.5b-hf",
        "llava-med-v1.5-mistral-7b",
        "bakllava-v1-hf",
        "llama3-llava-next-8b-hf",
        "llava-llama-3-8b-v1_1",
    }


@pytest.mark.parametrize("name", NAMES)
def test_what_could_not_be_checked_is_said(name):
    assert RECIPES[name].unverified


@pytest.mark.parametrize("name", NAMES)
def test_the_template_is_the_one_that_llava_takes_for_that_name(name):
    recipe = RECIPES[name]
    assert recipe.model.conv_mode in TEMPLATES
    assert by_name(recipe.model.name) in {None, recipe.model.conv_mode}


@pytest.mark.parametrize("name", COMPUTED)
def test_where_no_list_was_seen_the_recipe_says_so(name):
    assert any("no list was available" in text for text in RECIPES[name].unverified)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_recipe_asks_for_is_in_the_repository(name):
    asked = {file.path for file in RECIPES[name].model.files}
    assert asked or name == "llava-budget"
    assert asked <= set(RECORDED[name])


@pytest.mark.parametrize("name", NAMES)
def test_the_file_list_is_of_the_kind_that_the_recipe_means(name):
    recipe = RECIPES[name]
    config = ALL_CONFIGS.get(repository(recipe), CONFIGS["liuhaotian/llava-v1.5-7b"])
    expected = KINDS.get(name, Kind.LORA if recipe.model.base else Kind.ORIGINAL)
    assert classify(RECORDED[name], config) is expected
    assert (recipe.model.format == "hf") == (expected is Kind.CONVERTED)


@pytest.mark.parametrize("name", WHOLE)
def test_the_weights_are_found_and_useless_pickles_left_out(name):
    index = b'{"weight_map": {%s}}' % b", ".join(
        b'"t%d": "%s"' % (number, file.encode())
        for number, file in enumerate(RECORDED[name])
        if "-of-" in file
    )
    found = find_weights(RECORDED[name], lambda _: index)
    assert found.defects == ()
    whole = {file for file in RECORDED[name] if file == "model.safetensors"}
    assert set(found.files) == {file for file in RECORDED[name] if "-of-" in file} | whole


@pytest.mark.parametrize("name", WEIGHT_BYTES)
def test_the_recorded_configuration_gives_the_recorded_size(name):
    config = ALL_CONFIGS[name]
    shapes = language_shapes(config) | projector_shapes(config)
    if config["unfreeze_mm_vision_tower"]:
        shapes |= tower_shapes(CLIP_LARGE_336)
    tables = (
        config["num_hidden_layers"] * 64 * 4 if "v1.5" in name else 0
    )  # rotary tables in the index
    assert sum(math.prod(shape) * 2 for shape in shapes.values()) + tables == WEIGHT_BYTES[name]


@pytest.mark.parametrize("name", LLAVAS)
def test_the_recorded_configuration_fits_its_tower_and_has_a_native_form(name):
    config = ALL_CONFIGS[name]
    assert pair_defects(config, CLIP_LARGE_336, PREPROCESSORS[336]) == []
    form = native_form(config, CLIP_LARGE_336, PREPROCESSORS[336])
    native = native_config(config, CLIP_LARGE_336, form, rows=32064, tokens=TOKENS, precision="nf4")
    tiles = "v1.6" in name
    assert native["architectures"] == [f"Llava{'Next' if tiles else ''}ForConditionalGeneration"]
    assert native["image_seq_length"] == 576
    assert native.get("image_grid_pinpoints", [[0, 0]])[0] == ([672, 336] if tiles else [0, 0])
    assert native["text_config"]["vocab_size"] == 32064


@pytest.mark.parametrize("name", CONVERTED)
def test_the_engine_can_be_made_of_a_conversion(name):
    config = ALL_CONFIGS[name]
    tower = converted_tower(config)
    siglip = tower["model_type"].startswith("siglip")
    preprocessor = SIGLIP_PREPROCESSOR if siglip else PREPROCESSORS[336]
    original = as_original(config, preprocessor)
    assert engine_defects(original, {"vision_config": tower}, preprocessor) == []
    counted = count_parameters(original, {"vision_config": tower})
    assert memory_bytes(counted, original, context_tokens=4096, slots=1)["nf4"]


@pytest.mark.parametrize("name", PUBLISHED_GB)
def test_a_recorded_conversion_gives_the_published_size(name):
    config = ALL_CONFIGS[name]
    tower = {"vision_config": converted_tower(config)}
    published = PUBLISHED_GB[name] * 1e9
    total = count_parameters(as_original(config, SIGLIP_PREPROCESSOR), tower).total
    assert 2 * total == pytest.approx(published, rel=0.01)


def test_the_conversion_has_the_sizes_of_its_original():
    config = as_original(COMPUTED_CONFIGS["llava-hf/llava-1.5-7b-hf"])
    original = CONFIGS["liuhaotian/llava-v1.5-7b"]
    shapes = language_shapes(original) | projector_shapes(original)
    rows = {"model.embed_tokens.weight", "lm_head.weight"}
    assert language_shapes(config) | projector_shapes(config) == {
        name: (32064, *shape[1:]) if name in rows else shape for name, shape in shapes.items()
    }


def test_the_budget_components_make_a_llava():
    values = RECIPES["llava-budget"].model.values
    config = {**TINY_LLAMA, "mm_hidden_size": 768, **values}
    assert classify(["config.json", "model.safetensors"], config) is Kind.ORIGINAL
    assert pair_defects(config, CLIP_BASE_32, PREPROCESSORS[224]) == []
    assert projector_shapes(config)["model.mm_projector.0.weight"] == (2048, 768)
    form = native_form(config, CLIP_BASE_32, PREPROCESSORS[224])
    native = native_config(config, CLIP_BASE_32, form, rows=32064, tokens=TOKENS)
    assert native["image_seq_length"] == 49
    assert native["text_config"]["num_key_value_heads"] == 4


TOWER_FETCH_BYTES = {"clip-vit-large-patch14-336": 1_711_974_081, "clip-vit-base-patch32": 605e6}
"""pytorch_model.bin of OpenAI's repositories, text side and all, as public pages show it."""
ADAPTER_BYTES = 2 * 32 * 128 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
"""Of the LoRA recipe's: rank 128 beside every matrix of 32 layers, in 16 bits."""


@pytest.mark.parametrize("name", NAMES)
def test_the_sizes_that_are_listed_are_those_of_the_configuration(name):
    recipe = RECIPES[name]
    config = {
        "llava-v1.5-7b-lora": CONFIGS["liuhaotian/llava-v1.5-7b"],
        "llava-budget": {**TINY_LLAMA, "mm_hidden_size": 768, **recipe.model.values},
    }.get(name) or ALL_CONFIGS[repository(recipe)]
    adapter = ADAPTER_BYTES if name == "llava-v1.5-7b-lora" else 0
    if name in KINDS and KINDS[name] is Kind.CONVERTED:
        tower = {"vision_config": converted_tower(config)}
        siglip = tower["vision_config"]["model_type"].startswith("siglip")
        config = as_original(config, SIGLIP_PREPROCESSOR if siglip else PREPROCESSORS[336])
        fetch = 2 * count_parameters(config, tower).total
    else:
        tower = CLIP_BASE_32 if name == "llava-budget" else CLIP_LARGE_336
        shapes = language_shapes(config) | projector_shapes(config)
        shapes |= tower_shapes(tower) if config["unfreeze_mm_vision_tower"] else {}
        fetch = sum(math.prod(shape) * 2 for shape in shapes.values())
        fetch += TOWER_FETCH_BYTES[recipe.vision_tower.name] + adapter
    counted, context = count_parameters(config, tower), recipe.serving.context_tokens
    memory = memory_bytes(counted, config, context_tokens=context, slots=1)
    [known] = [one for one in known_recipes() if one.name == name]
    assert known.sizes.fetch_bytes == pytest.approx(fetch, abs=6e7)
    assert known.sizes.nf4_bytes == pytest.approx(memory["nf4"] + adapter, abs=6e7)


@pytest.mark.parametrize("name", [n for n in NAMES if RECIPES[n].vision_tower is not None])
def test_the_tower_is_pinned_or_said_to_be_unverified(name):
    recipe = RECIPES[name]
    assert recipe.vision_tower is not None
    revision = recipe.vision_tower.source.partition("@")[2]
    assert len(revision) == 40 or recipe.unverified
