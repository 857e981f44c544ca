"""The runtimes: each is registered once. LLaVA's own: which models it takes, and the pins that it gets on which machine."""

from types import SimpleNamespace
from typing import get_args

import pytest

from llava_pack.assemble.packing import Packing, choose_packing
from llava_pack.assemble.planning import old_glibc_fix
from llava_pack.assemble.runtimes import (
    PACKED,
    upstream_requirements,
    upstream_torch,
    with_runtime,
)
from llava_pack.assemble.serving import plan_serving
from llava_pack.checkpoint.kind import Kind
from llava_pack.format.errors import RecipeError, UsageError
from llava_pack.format.manifest import Engine
from llava_pack.health.runtimes import serving_runtime
from llava_pack.lock.platform import parse_platform
from llava_pack.lock.torch_build import TorchChoice
from llava_pack.recipe import find_recipe, read_recipe
from llava_pack.runtimes import RUNTIMES

MODERN, OLD = "x86_64-manylinux_2_35", "x86_64-manylinux_2_17"
NEWEST = TorchChoice(requirements=("torch>=2.15",))


def recipe(name="demo", engine="upstream"):
    return with_runtime(read_recipe(find_recipe(name)).value, engine)


def pins(platform=MODERN, cuda="12", python="3.11", torch=NEWEST):
    target = parse_platform(platform, python)
    return upstream_requirements(recipe(), target, upstream_torch(torch, target, cuda), cuda)


def test_the_pins_that_work_together_are_asked_for():
    assert {"fastapi==0.112.4", "starlette==0.38.6", "gradio==4.16.0", "transformers==4.37.2"} <= {
        *pins()
    }
    assert "torch>=2.15" in pins()


def test_an_old_c_library_gets_the_torch_that_its_bitsandbytes_has_kernels_for():
    assert "torch>=2.3,<2.5" in pins(OLD)
    assert "torch>=2.15" not in pins(OLD)
    assert "torch>=2.15" in pins(OLD, cuda="none")


def test_a_cpu_needs_no_kernels():
    assert not [line for line in pins(cuda="none") if line.startswith("bitsandbytes")]
    assert [line for line in pins() if line.startswith("bitsandbytes")]


def test_each_runtime_is_in_both_tables_and_its_serving_half_is_there():
    assert set(get_args(Engine)) == RUNTIMES.keys() == PACKED.keys()
    ours = [name for name, one in RUNTIMES.items() if one.profile is None]
    assert [name for name in ours if serving_runtime(name) is None] == ["transformers"]
    assert [name for name in ours if not RUNTIMES[name].package] == ["transformers"]


def test_another_python_is_10():
    with pytest.raises(RecipeError, match=r"runs on Python 3\.11, got 3\.12"):
        pins(python="3.12")


def test_the_recipes_own_runtime_holds_where_nobody_says_more():
    assert recipe(engine=None).runtime.engine == "transformers"
    assert recipe().runtime.python == "3.11"


def test_a_converted_model_is_2():
    with pytest.raises(UsageError, match="reads the original layout"):
        recipe("llava-1.5-7b-hf")


@pytest.mark.parametrize("name", ["my-finetune", "llava-prompting"])
def test_a_name_that_its_code_would_misread_is_10(name):
    plain = read_recipe(find_recipe("demo")).value
    model = plain.model.model_copy(update={"name": name})
    with pytest.raises(RecipeError, match="loads by the folder's name"):
        with_runtime(plain.model_copy(update={"model": model}), "upstream")


@pytest.mark.parametrize("asked", [{"wanted": "hf"}, {"precision": "nf4"}])
def test_another_layout_is_2(asked):
    with pytest.raises(UsageError, match=r"loads is the original layout|quantized ahead"):
        choose_packing(recipe("llava-v1.5-7b"), **asked)


def test_an_adapter_is_merged_so_that_nothing_pickled_is_loaded():
    assert choose_packing(recipe("llava-v1.5-7b-lora")) == Packing(merge=True)


@pytest.mark.parametrize(("cpu", "precision"), [(True, "fp16"), (False, "nf4")])
def test_it_quantizes_on_a_gpu_only(cpu, precision):
    configs = ({"hidden_size": 8}, {})
    plan = plan_serving(recipe(), Packing(), None, configs, cpu=cpu)
    assert (plan.profile.engine, plan.profile.precision) == ("upstream", precision)


@pytest.mark.parametrize(
    ("asked", "dtype", "cpu", "got"),
    [
        ("nf4", "bfloat16", False, "bf16"),
        ("nf4", "float16", False, "fp16"),
        ("nf4", "", False, "fp16"),
        ("nf4", "bfloat16", True, "fp32"),
        ("fp16", "bfloat16", False, "fp16"),
    ],
)
def test_an_engine_of_others_serves_weights_as_they_are_unless_it_is_told_to(
    asked, dtype, cpu, got
):
    chosen = recipe("llava-v1.5-7b", "vllm")
    serving = chosen.serving.model_copy(update={"precision": asked})
    chosen = chosen.model_copy(update={"serving": serving})
    configs = ({"hidden_size": 8}, {})
    source = SimpleNamespace(kind=Kind.NATIVE, config={"text_config": {"torch_dtype": dtype}})
    plan = plan_serving(chosen, Packing(), None, configs, cpu=cpu, source=source)
    assert plan.profile.precision == got


def test_its_code_is_recommended_for_an_old_c_library_only_where_it_takes_the_model():
    assert "--runtime upstream" in old_glibc_fix(recipe("llava-v1.5-7b", "transformers"))
    assert "--runtime" not in old_glibc_fix(recipe("llava-1.5-7b-hf", "transformers"))
    assert "--runtime" not in old_glibc_fix(recipe("llava-v1.5-7b", "upstream"))
    assert "RHEL 8" in old_glibc_fix(recipe("llava-1.5-7b-hf", "transformers"))
