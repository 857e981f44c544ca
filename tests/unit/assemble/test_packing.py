from dataclasses import replace

import pytest
from packaging.requirements import Requirement

from llava_pack.assemble.packing import Packing, choose_packing
from llava_pack.assemble.recipe_template import check_named
from llava_pack.assemble.requirements import engine_requirements, gateway_requirements
from llava_pack.assemble.runtimes import with_runtime
from llava_pack.format.errors import RecipeError, UsageError
from llava_pack.lock.torch_build import TorchChoice
from llava_pack.recipe import find_recipe, read_recipe, recipe_names
from llava_pack.runtimes import RUNTIMES


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


ENGINES = [name for name, one in RUNTIMES.items() if one.profile is not None]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["llava-v1.5-7b", "llava-v1.5-7b-lora", "llava-1.5-7b-hf"])
def test_an_engine_of_the_field_gets_the_layout_that_it_prefers_and_one_model(engine, name):
    wanted = with_runtime(recipe(name), engine)
    packing = choose_packing(wanted)
    layout = "hf" if wanted.model.format == "hf" else RUNTIMES[engine].profile.loads.layouts[0]
    assert packing.format == layout
    assert packing.merge == (wanted.model.base is not None)
    beside = f"{wanted.model.name}-tokenizer" if layout == "original" else None
    assert packing.tokenizer == beside
    assert (beside is None) or replace(packing, tokenizer=None).key != packing.key
    assert choose_packing(wanted, wanted="hf").tokenizer is None


@pytest.mark.parametrize(
    ("engine", "asked", "said"),
    [
        ("vllm", {"wanted": "original"}, r"vLLM loads is the transformers-native layout \(hf\)"),
        ("vllm", {"precision": "int8"}, "quantized ahead but nf4"),
        ("sglang", {"precision": "nf4"}, "quantized ahead"),
        ("lmdeploy", {"precision": "nf4"}, "quantized ahead"),
    ],
)
def test_an_engine_refuses_what_it_does_not_load(engine, asked, said):
    with pytest.raises(UsageError, match=said):
        choose_packing(with_runtime(recipe("llava-v1.5-7b"), engine), **asked)


def test_weights_quantized_ahead_bring_their_kernels():
    profile = RUNTIMES["vllm"].profile
    packing = choose_packing(with_runtime(recipe("llava-v1.5-7b"), "vllm"), precision="nf4")
    assert packing == Packing(format="hf", precision="nf4")
    torch = TorchChoice(requirements=("torch>=2.11",))
    for release in profile.releases:
        asked = (recipe("llava-v1.5-7b"), profile, release, torch)
        whole = engine_requirements(*asked, quantized=False)
        assert {*engine_requirements(*asked, quantized=True)} - {*whole} == {*release.kernels}
        assert ("ziglang" in whole) == (release.cuda != "none")


def test_what_stands_before_an_engine_has_nothing_of_ours():
    names = {Requirement(line).name for line in gateway_requirements()}
    assert {"fastapi", "uvicorn", "pillow", "uv"} <= names
    assert not names & {"torch", "transformers", "bitsandbytes", "llguidance", "accelerate"}
