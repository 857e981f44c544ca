"""What a folder of somebody's training, or of another program, is said to be."""

import json
import math
from pathlib import Path

import pytest

from llava_pack.checkpoint.adapter import read_adapter
from llava_pack.checkpoint.context import longest_context
from llava_pack.checkpoint.folder import checkpoint_name
from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.layout import read_layout, survey
from llava_pack.checkpoint.summary import summarise
from llava_pack.checkpoint.tensors import ELEMENT_BYTES, FLOATS
from llava_pack.fetch.schemes import parse_source
from llava_pack.format.errors import CheckpointError
from tests.support import trained
from tests.support.checkpoints import make_converted, make_language, make_llava, make_lora
from tests.support.pickles import Stored
from tests.unit.checkpoint.test_families import change, edit, fails

NAME = "llava-v1.5-tiny"
COMMIT = "4481d270cc22fd5c4d1bb5df129622006ccd9234"


def warnings(folder: Path) -> list[str]:
    return [str(one) for one in survey(folder)[1] if one.level == "warn"]


def test_what_training_leaves_is_one_warning(tmp_path):
    folder = make_llava(tmp_path / NAME)
    for name in ("zero_to_fp32.py", "latest", "optimizer.pt", "rng_state_0.pth", "scheduler.pt"):
        (folder / name).write_bytes(b"")
    (folder / "global_step500").mkdir()
    assert fails(folder) == []
    assert warnings(folder) == [
        "zero_to_fp32.py: not run: no loader needs a script",
        "global_step500, latest, optimizer.pt and 3 more: left by training, not used",
    ]


def test_weights_in_parts_are_to_be_joined_first(tmp_path):
    folder = make_llava(tmp_path / NAME)
    for path in folder.glob("pytorch_model*"):
        path.unlink()
    (folder / "zero_to_fp32.py").write_text("")
    (found,) = [one for one in survey(folder)[1] if one.level == "fail"]
    assert found.message == "this folder contains no weights"
    assert "zero_to_fp32.py" in found.hint


def test_a_folder_of_parts_is_enough_to_say_how_to_join_them(tmp_path):
    (tmp_path / "global_step500").mkdir()
    hints = {one.hint for one in survey(tmp_path)[1] if "contains no weights" in one.message}
    assert "zero_to_fp32.py" in hints.pop()


def test_an_intermediate_checkpoint_of_lora_says_what_to_take(tmp_path):
    """LLaVA's own training saves neither config.json nor the projector there."""
    folder = make_lora(tmp_path / "llava-v1.5-tiny-lora" / "checkpoint-500")
    for name in ("config.json", "non_lora_trainables.bin"):
        (folder / name).unlink()
    assert fails(folder)[0] == "config.json: is missing"
    hints = {one.hint for one in survey(folder)[1] if "non_lora" in one.subject}
    assert "take the folder of the whole training" in hints.pop()


def test_an_intermediate_checkpoint_of_everything_is_whole(tmp_path):
    folder = make_llava(tmp_path / NAME / "checkpoint-500")
    (folder / "trainer_state.json").write_text("{}")
    assert fails(folder) == []


def cache_of(tmp_path: Path, *commits: str) -> Path:
    root = tmp_path / "models--liuhaotian--llava-v1.5-7b"
    for commit in commits:
        make_llava(root / "snapshots" / commit)
    (root / "refs").mkdir(parents=True)
    return root


def test_the_cache_of_a_hub_is_the_snapshot_that_main_is(tmp_path):
    root = cache_of(tmp_path, COMMIT, "0" * 40)
    (root / "refs/main").write_text(COMMIT)
    layout = read_layout(root)
    assert layout.folder == root / "snapshots" / COMMIT
    assert layout.name == checkpoint_name(root / "snapshots" / COMMIT) == "llava-v1.5-7b"


def test_the_cache_of_a_hub_is_its_only_snapshot(tmp_path):
    root = cache_of(tmp_path, COMMIT)
    (root / "refs/main").write_text("../../..")
    assert read_layout(root).folder.name == COMMIT


@pytest.mark.parametrize("commits", [(), ("1" * 40, "2" * 40)])
def test_a_cache_without_a_main_snapshot_is_named(tmp_path, commits):
    root = cache_of(tmp_path, *commits)
    (root / "snapshots").mkdir(exist_ok=True)
    with pytest.raises(CheckpointError, match="is a cache of the Hub with") as caught:
        read_layout(root)
    assert caught.value.hint


def test_a_web_page_in_place_of_json(tmp_path):
    folder = make_llava(tmp_path / NAME)
    (folder / "config.json").write_text("<!DOCTYPE html>\n<html>Sign in</html>")
    (found, *_) = [one for one in survey(folder)[1] if one.level == "fail"]
    assert str(found) == "config.json: is a web page, expected JSON"
    assert "download it again" in found.hint


@pytest.mark.parametrize(
    ("changes", "files", "text"),
    [
        ({}, ["ggml-model-q4_k.gguf"], "ggml-model-q4_k.gguf: GGUF weights are for llama.cpp"),
        ({}, ["quant_config.json"], "quant_config.json: quantized by AutoAWQ or AutoGPTQ"),
        ({}, ["quantize_config.json"], "quantize_config.json: quantized by AutoAWQ or AutoGPTQ"),
        *(
            ({"quantization_config": {"quant_method": method}}, [], f"quantized by '{method}', exp")
            for method in ("hqq", "aqlm")
        ),
        (
            {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"}},
            [],
            "quantized by bitsandbytes into 'bfloat16'",
        ),
        ({"quantization_config": "int4"}, [], "quantization_config is 'int4'"),
    ],
)
def test_weights_of_another_program_are_named(tmp_path, changes, files, text):
    folder = make_converted(tmp_path / "llava-x-hf")
    edit(folder / "config.json", **changes)
    for name in files:
        (folder / name).write_text("{}")
        if name.endswith(".gguf"):
            for path in folder.glob("model*"):
                path.unlink()
    found = [one for one in survey(folder)[1] if one.level == "fail"]
    assert [text in str(one) for one in found] == [True]
    assert found[0].hint.startswith("use the ")


@pytest.mark.parametrize("tool", trained.adapters())
def test_a_recorded_adapter_is_whole_without_a_config(tmp_path, tool):
    layout, defects = survey(trained.make_adapter(tool, tmp_path / "tuned"))
    assert defects == []
    assert (layout.kind, layout.over_converted) == (Kind.LORA, True)
    facts = summarise(layout.folder)
    assert facts["base_model"] == "llava-hf/llava-1.5-tiny-hf"
    assert facts.keys() == {"layout", "is", "base_model", "weights", "defects"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is not supported"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is not supported"),
        ({"r": 8}, "does not fit rank 8"),
    ],
)
def test_maths_that_is_not_known_is_refused_before_the_base_is_there(tmp_path, changes, text):
    folder = trained.make_adapter("trl", tmp_path / "tuned")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))
    (found,) = fails(folder)
    assert text in found


def test_an_adapter_is_no_adapter_without_its_tensors(tmp_path):
    folder = make_language(tmp_path / "vicuna")
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter_model.safetensors: is missing, and so is adapter_model.bin" in fails(folder)


def test_a_recipe_may_name_the_cache_of_a_hub(tmp_path):
    root = cache_of(tmp_path, COMMIT)
    (root / "refs/main").write_text(COMMIT)
    source = parse_source(f"dir:{root.name}", base=tmp_path)
    assert source.name == "llava-v1.5-7b"
    assert "config.json" in source.list().files


def test_a_context_is_what_training_made_of_it():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert longest_context({"rope_scaling": yarn}, 131072) == 131072
    assert longest_context({"rope_parameters": yarn}, 32768) == 131072
    assert longest_context({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, 2048) == 2048
    linear = {"type": "linear", "factor": 4.0}
    assert longest_context({"rope_scaling": linear, "max_sequence_length": 12000}, 4096) == 12000
    assert longest_context({"max_sequence_length": 16384}, 4096) == 4096


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"type": "linear", "factor": "x"}},
        {"rope_scaling": {"type": "linear", "factor": 1e308}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": "x"}},
        {"rope_parameters": ["yarn"]},
        {"max_position_embeddings": 10**400},
    ],
)  # fmt: skip
def test_a_context_that_cannot_be_known_is_left_out(tmp_path, changes):
    folder = make_llava(tmp_path / NAME)
    assert summarise(folder)["language_model"]["context_tokens"] > 0
    edit(folder / "config.json", **changes)
    assert "context_tokens" not in summarise(folder)["language_model"]


READ = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "peft_type"}
TRAINING_ALONE = {
    "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core",
    "modules_to_save", "peft_version", "qalora_group_size", "revision", "target_modules",
    "task_type", "velora_config",
}  # fmt: skip
"""Settings that say what is trained and how; the tensors tell the rest of it."""
SETTINGS = {
    key
    for tool in trained.adapters()
    for key in json.loads((trained.FIXTURES / tool / "adapter_config.json").read_bytes())
}


@pytest.mark.parametrize("type_name", sorted(set(ELEMENT_BYTES) - set(FLOATS)))
def test_an_adapter_is_of_floats(tmp_path, type_name):
    folder = trained.make_adapter("trl", tmp_path / "tuned")
    empty = bytes(ELEMENT_BYTES[type_name] * 4)
    change(
        folder / "adapter_model.safetensors",
        lambda tensors: tensors.update({"strange.weight": Stored(type_name, (2, 2), empty)}),
    )
    (found,) = fails(folder)
    assert found == f"strange.weight: has type {type_name}, expected one of F64, F32, F16, BF16"


@pytest.mark.parametrize(
    "changes",
    [
        *({"rank_pattern": value} for value in ([], "x", 0, {"(": 4}, {"(a+)+": 4}, {"a" * 257: 4})),
        *({"rank_pattern": {"up_proj": value}} for value in ("x", None, 0, 1.5, True, 10**400)),
        *({"alpha_pattern": {"up_proj": value}} for value in ("x", None, math.nan, 10**400)),
        *({"rank_pattern": {pattern: 4}} for pattern in ("(a|a)*", "(?i)a", "(a|a)" * 40, "a?" * 40)),
        *({"lora_alpha": value} for value in (10**400, math.inf, True)),
        {"r": 10**400},
    ],
)  # fmt: skip
def test_settings_of_an_adapter_that_are_no_values_are_refused(changes):
    with pytest.raises(CheckpointError, match=f"{next(iter(changes))} ") as caught:
        read_adapter({"r": 4, "lora_alpha": 8, **changes})
    assert caught.value.subject == "adapter_config.json"


def test_patterns_are_held_against_a_name_and_its_end():
    ranks = {r"^model\.layers\.(0|1)\..*q_proj": 2, "up_proj": 3, "down_proj|k_proj": 5}
    adapter = read_adapter({"r": 4, "lora_alpha": 8, "rank_pattern": ranks, "alpha_pattern": None})
    names = ("model.layers.1.self_attn.q_proj", "layers.0.up_proj", "a.k_proj", "model.xup_proj")
    assert [adapter.rank_of(name) for name in names] == [2, 3, 5, 4]


@pytest.mark.parametrize("key", sorted(SETTINGS - READ - TRAINING_ALONE))
def test_every_other_setting_that_peft_writes_is_refused_where_it_is_used(key):
    """One that a newer peft writes is seen here when the fixtures are recorded again."""
    assert read_adapter({"r": 4, "lora_alpha": 8, key: None}).rank == 4
    with pytest.raises(CheckpointError, match=f"{key} is not supported"):
        read_adapter({"r": 4, "lora_alpha": 8, key: ["x"]})


def test_a_gguf_beside_whole_weights_is_passed_over(tmp_path):
    folder = make_llava(tmp_path / "llava-v1.5-tiny")
    (folder / "model-q4.gguf").write_bytes(b"GGUF")
    assert fails(folder) == []
