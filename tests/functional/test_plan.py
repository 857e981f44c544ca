"""`plan` for recorded machines: real resolutions, real configurations, weights of no bytes."""

import json
import math
import os

import pytest

from llava_pack.checkpoint.conformance import model_shapes
from llava_pack.checkpoint.expected import tower_shapes
from llava_pack.checkpoint.safetensors_file import render_header
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.format.exit_codes import ExitCode
from tests.conftest import ROOT
from tests.support.tiny_models import TinyTower, preprocessor_config
from tests.support.vocabularies import tiny_tokenizer_model

TARGETS = ROOT / "tests" / "fixtures" / "targets"
LLAVA = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32,
           "num_key_value_heads": 32, "num_hidden_layers": 32},
    "13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 40,
            "num_key_value_heads": 40, "num_hidden_layers": 40},
}  # fmt: skip
COMMON = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava",
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "vocab_size": 32000,
}
VISION = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
    "num_hidden_layers": 24, "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip


def sparse(path, shapes):
    """Write a weight file with its whole header, and tensors that take no room on the disk."""
    header = render_header([TensorEntry(name, "F16", shape) for name, shape in shapes.items()])
    with path.open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + 2 * sum(map(math.prod, shapes.values())))


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """Write recipes over folders that look like the published repositories."""
    root = tmp_path_factory.mktemp("recipes")
    tower = root / "tower"
    tower.mkdir()
    vision = {"architectures": ["CLIPModel"], "model_type": "clip", "vision_config": VISION}
    (tower / "config.json").write_text(json.dumps(vision))
    prepared = preprocessor_config(TinyTower(picture=VISION["image_size"]))
    (tower / "preprocessor_config.json").write_text(json.dumps(prepared))
    sparse(tower / "model.safetensors", tower_shapes(vision))
    found = {}
    for name, sizes in LLAVA.items():
        model = root / f"llava-v1.5-{name}"
        model.mkdir()
        config = {**COMMON, **sizes}
        (model / "config.json").write_text(json.dumps(config))
        (model / "tokenizer.model").write_bytes(tiny_tokenizer_model())
        sparse(model / "model.safetensors", model_shapes(config))
        found[name] = root / f"{name}.toml"
        found[name].write_text(
            f'name = "llava-v1.5-{name}"\ntitle = "LLaVA {name}"\n'
            '[licence]\nid = "Llama-2-Community"\nurl = "https://ai.meta.com/llama/license/"\n'
            f'[model]\nsource = "dir:llava-v1.5-{name}"\nname = "llava-v1.5-{name}"\n'
            'conv_mode = "llava_v1"\n[vision_tower]\nsource = "dir:tower"\nname = "clip"\n'
        )
    return found


@pytest.fixture
def plan(command_line, recipes, tmp_path):
    return _planning(command_line, recipes, tmp_path)


def _planning(command_line, recipes, tmp_path):
    def run(target, *options, model="7b"):
        arguments = ["plan", recipes[model], "--python", "target", "--json"]
        place = TARGETS / f"{target}.json" if isinstance(target, str) else target
        arguments += [] if target is None else ["--target", place]
        done = command_line(*arguments, *options, cwd=tmp_path)
        assert list(tmp_path.iterdir()) == [], "plan wrote something"
        said = json.loads(done.stdout.splitlines()[-1])
        said["exit_code"] = done.returncode
        return said

    return run


def found(outlook, name):
    return next(one for one in outlook["findings"] if one["name"] == name)


def failed(outlook):
    return {one["name"] for one in outlook["findings"] if one["level"] == "fail"}


def release(outlook):
    return tuple(int(part) for part in outlook["torch"].split("+")[0].split(".")[:2])


def test_driver_580_and_glibc_2_35_get_the_newest_cuda_13(plan):
    outlook = plan("l40s-driver-580")
    assert outlook["exit_code"] == 0, outlook
    assert outlook["cuda"].startswith("13.")
    assert release(outlook) >= (2, 15)
    assert outlook["floors"]["driver"] == "580.65"
    assert (outlook["serving"]["precision"], outlook["serving"]["slots"]) == ("fp16", 8)


def test_driver_535_and_glibc_2_31_get_the_newest_cuda_12(plan):
    outlook = plan("a100-driver-535")
    assert outlook["exit_code"] == 0, outlook
    assert outlook["cuda"] == "12.8"
    assert release(outlook) == (2, 10)
    minor = int(outlook["floors"]["glibc"].split(".")[1])
    assert minor <= 31


def test_a_v100_gets_torch_2_10_at_most_whatever_its_driver(plan):
    outlook = plan("v100-driver-580")
    assert outlook["exit_code"] == 0, outlook
    assert (outlook["cuda"], release(outlook)) == ("12.8", (2, 10))
    assert found(outlook, "compute capability")["value"] == "7.0"


def test_a_p100_gets_torch_2_7_at_most(plan):
    outlook = plan("p100-driver-535")
    assert outlook["exit_code"] == 0, outlook
    assert (outlook["cuda"], release(outlook)) == ("12.6", (2, 7))
    assert {fit["precision"] for fit in outlook["fits"]} == {"fp16", "nf4"}


def test_driver_470_is_refused_and_the_driver_named(plan):
    outlook = plan("driver-470")
    assert outlook["exit_code"] == 3
    assert "driver" in failed(outlook)
    assert "525.60" in found(outlook, "driver")["fix"]


def test_glibc_2_17_is_refused_before_anything_crosses(plan):
    outlook = plan("centos-7")
    assert outlook["exit_code"] == 3
    assert "glibc" in failed(outlook)
    assert found(outlook, "glibc")["value"] == "2.17"
    assert "RHEL 8" in found(outlook, "glibc")["fix"]
    assert "--runtime upstream" in found(outlook, "glibc")["fix"]


def test_a_lock_for_a_gpu_without_a_cuda_runtime_is_10(plan):
    """torch before 2.11 has no CUDA on aarch64: the resolver is content, the machine would not be."""
    outlook = plan(None, "--cuda", "12", "--platform", "aarch64-manylinux_2_35")
    assert (outlook["exit_code"], outlook["subject"]) == (10, "lock")
    assert "expected a CUDA runtime in the lock, got none" in outlook["message"]


def test_a_python_of_the_target_that_is_not_there_is_3(plan, tmp_path_factory):
    profile = json.loads((TARGETS / "l40s-driver-580.json").read_text())
    file = tmp_path_factory.mktemp("own") / "no-python.json"
    file.write_text(json.dumps({**profile, "pythons": []}))
    outlook = plan(file)
    assert outlook["exit_code"] == 3
    assert failed(outlook) == {"python"}


def test_glibc_2_17_gets_llavas_own_code_with_what_fits_it(plan):
    outlook = plan("centos-7", "--runtime", "upstream")
    assert failed(outlook) == {"python"}, "only the interpreter that this test does not carry"
    versions = {part["name"]: part["version"] for part in outlook["wheels"]}
    assert release(outlook) < (2, 5)
    assert outlook["cuda"] == "12.1"
    assert versions["bitsandbytes"] == "0.42.0"
    assert (versions["llava-torch"], versions["fastapi"]) == ("1.2.2.post1", "0.112.4")
    assert outlook["serving"]["engine"] == "upstream"


def test_grace_gets_aarch64_wheels_with_cuda(plan):
    outlook = plan("grace-hopper")
    assert outlook["exit_code"] == 0, outlook
    assert outlook["floors"]["arch"] == "aarch64"
    assert outlook["cuda"].startswith("13.")
    assert outlook["python"] == "3.12"


def test_6_gb_take_7b_in_nf4_with_less_context(plan):
    outlook = plan("gpu-6gb")
    assert outlook["exit_code"] == 0, outlook
    serving = outlook["serving"]
    assert (serving["precision"], serving["slots"]) == ("nf4", 1)
    assert 1024 <= serving["context_tokens"] < 4096
    assert found(outlook, "requests")["level"] == "warn"


def test_6_gb_do_not_take_13b(plan):
    outlook = plan("gpu-6gb", model="13b")
    assert outlook["exit_code"] == 3
    assert failed(outlook) == {"GPU memory"}
    assert "GB" in found(outlook, "GPU memory")["fix"]


@pytest.mark.parametrize(("model", "precisions"), [("7b", {"fp16"}), ("13b", {"int8", "nf4"})])
def test_24_gb(plan, model, precisions):
    outlook = plan("gpu-24gb", model=model)
    assert outlook["exit_code"] == 0, outlook
    assert outlook["serving"]["precision"] in precisions
    assert outlook["serving"]["slots"] >= 2


def with_gpus(folder, *changes):
    """Write the machine of two GPUs with others: each a change of its first."""
    profile = json.loads((TARGETS / "two-12gb.json").read_text())
    gpus = [{**profile["gpus"][0], **change} for change in changes]
    file = folder / "gpus.json"
    file.write_text(json.dumps({**profile, "gpus": gpus}))
    return file


def test_two_gpus_of_12_gb_take_13b_in_int8_together(plan):
    outlook = plan("two-12gb", model="13b")
    assert outlook["exit_code"] == 0, outlook
    serving = outlook["serving"]
    assert (serving["precision"], serving["gpus"]) == ("int8", 2)
    assert (serving["slots"], serving["context_tokens"]) == (2, 4096)
    assert found(outlook, "GPUs")["level"] == "ok"
    memory = outlook["floors"]["memory_bytes"]["int8"]
    assert 12884901888 < memory <= 2 * 12884901888
    assert found(outlook, "GPU memory")["value"] == f"{2 * 12884901888} bytes"


def test_a_model_that_one_gpu_of_two_serves_stays_on_it(plan, tmp_path_factory):
    file = with_gpus(tmp_path_factory.mktemp("two-24gb"), {}, {"memory_bytes": 25757220864})
    outlook = plan(file, model="13b")
    assert outlook["exit_code"] == 0, outlook
    assert (outlook["serving"]["precision"], outlook["serving"]["gpus"]) == ("int8", 1)
    assert found(outlook, "GPUs")["level"] == "warn"
    assert "CUDA_VISIBLE_DEVICES=1 " in found(outlook, "GPUs")["fix"]


@pytest.mark.parametrize(
    "other",
    [{"mig": True, "mig_slices": ["1g.5gb", "1g.5gb"]}, {"compute_capability": "6.1"}],
    ids=["mig", "old"],
)
def test_a_gpu_that_cannot_share_is_not_counted(plan, tmp_path_factory, other):
    outlook = plan(with_gpus(tmp_path_factory.mktemp("other"), other, {}), model="13b")
    assert outlook["exit_code"] == 0, outlook
    assert (outlook["serving"]["precision"], outlook["serving"]["gpus"]) == ("nf4", 1)
    assert found(outlook, "GPU memory")["value"] == "12884901888 bytes"
    assert "CUDA_VISIBLE_DEVICES=1 " in found(outlook, "GPUs")["fix"]


def test_without_a_gpu_it_is_the_cpu_and_said_to_be_slow(plan):
    outlook = plan("no-gpu")
    assert outlook["exit_code"] == 0, outlook
    assert outlook["cuda"] is None
    assert found(outlook, "device")["value"] == "CPU"


def test_fips_is_no_obstacle(plan):
    outlook = plan("fips")
    assert outlook["exit_code"] == 0, outlook
    assert found(outlook, "FIPS")["level"] == "ok"


def test_a_small_home_is_passed_over_for_a_disk_where_programs_run(plan):
    outlook = plan("small-home")
    assert outlook["exit_code"] == 0, outlook
    disk = found(outlook, "disk")
    assert disk["level"] == "warn"
    assert "/home/ml" in disk["value"]
    assert "--prefix /data/llava-pack" in disk["fix"]


def test_a_slice_counts_as_what_it_is(plan):
    outlook = plan("mig-slice")
    assert outlook["exit_code"] == 0, outlook
    assert outlook["serving"]["precision"] == "nf4"
    assert {fit["has_bytes"] for fit in outlook["fits"]} == {10_000_000_000}


def test_a_gpu_without_a_driver_cannot_be_checked_and_does_not_pass(plan):
    outlook = plan("gpu-without-driver")
    assert outlook["exit_code"] == 3
    assert {"driver", "compute capability", "GPU memory"} <= failed(outlook)


def test_musl_is_3_at_once(plan):
    outlook = plan("alpine")
    assert outlook["exit_code"] == 3
    assert outlook["kind"] == "error"
    assert "musl" in outlook["message"]


def test_options_win_over_facts(plan):
    outlook = plan("l40s-driver-580", "--cuda", "12", "--platform", "x86_64-manylinux_2_28")
    assert (outlook["cuda"], release(outlook)) == ("12.8", (2, 10))


def test_what_will_cross_is_counted(plan, recipes):
    outlook = plan("l40s-driver-580", "--link", "100MB/s")
    wheels = sum(part["size_bytes"] for part in outlook["wheels"])
    weights = (recipes["7b"].parent / "llava-v1.5-7b/model.safetensors").stat().st_size
    assert 2e9 < wheels < 5e9
    assert 0.3e9 < outlook["bundle_bytes"] - wheels - weights < 1e9, "the slim tower"
    assert outlook["minutes"] == {"100MB/s": pytest.approx(outlook["bundle_bytes"] / 6e9, abs=0.1)}
    assert outlook["target_bytes"] > outlook["bundle_bytes"]


def test_it_is_quick_from_a_warm_cache(llava_pack, recipes, tmp_path):
    """Counted in what it computes, as so many times the help: both take longer where all does."""
    plan = _planning(llava_pack, recipes, tmp_path)
    plan("l40s-driver-580")
    computed = [_children_s()]
    for run in (lambda: llava_pack("--help"), lambda: plan("l40s-driver-580")):
        run()
        computed.append(_children_s())
    start, helped, planned = computed
    assert 0 < planned - helped < 40 * (helped - start)


def _children_s():
    """Return the seconds that child processes have computed."""
    times = os.times()
    return times.children_user + times.children_system


def test_without_a_target_the_needs_are_told(plan):
    outlook = plan(None)
    assert outlook["exit_code"] == 0
    assert outlook["findings"] == []
    assert outlook["runs"] is None
    assert outlook["floors"]["driver"] == "525.60"


def test_a_medium_can_be_named(plan):
    minutes = plan(None, "--link", "usb3")["minutes"]
    assert list(minutes) == ["USB 3"]


def test_a_rate_that_is_none_is_2(plan):
    assert plan(None, "--link", "fast")["exit_code"] == 2


def test_build_refuses_the_machine_that_plan_refuses(llava_pack, recipes, tmp_path):
    done = llava_pack(
        "build", recipes["7b"], "--python", "target", "--json", "--out", tmp_path / "bundle",
        "--target", TARGETS / "driver-470.json",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "driver" in json.loads(done.stdout.splitlines()[-1])["message"]
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("conv_mode", "code", "said"),
    [
        ("vicuna_v9", ExitCode.RECIPE, "unknown conversation template 'vicuna_v9'"),
        ("qwen_1_5", ExitCode.CHECKPOINT, "lacks <|im_start|>, <|im_end|> of the conversation"),
    ],
)
def test_a_template_that_the_model_cannot_have_is_refused(
    command_line, recipes, tmp_path, conv_mode, code, said
):
    other = recipes["7b"].with_name(f"{conv_mode}.toml")
    other.write_text(recipes["7b"].read_text().replace("llava_v1", conv_mode))
    done = command_line("plan", other, "--python", "target", cwd=tmp_path)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
