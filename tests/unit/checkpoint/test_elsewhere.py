"""Models for other runtimes: known for what they are, refused by llava-pack's own engine."""

import json
from pathlib import Path
from typing import Any

import pytest

from llava_pack.checkpoint.elsewhere import native_defects, served_elsewhere
from llava_pack.checkpoint.footprint import Parameters, footprint
from llava_pack.checkpoint.kind import Kind, classify
from llava_pack.checkpoint.layout import read_layout, survey
from llava_pack.checkpoint.model import read_checkpoint
from llava_pack.checkpoint.native import native_values
from llava_pack.checkpoint.quantized import FOREIGN_METHODS, precision_ahead
from llava_pack.checkpoint.summary import summarise
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.format.errors import CheckpointError
from llava_pack.format.exit_codes import ExitCode
from llava_pack.profiles.loads import LOADS
from llava_pack.profiles.profile import Loads
from tests.support.byte_level import write_qwen
from tests.support.checkpoints import make_converted, write_weights
from tests.support.tiny_models import Values

QWEN = "Qwen2_5_VLForConditionalGeneration"
CONFIG: dict[str, Any] = {
    "architectures": [QWEN],
    "hidden_size": 64,
    "intermediate_size": 96,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vision_config": {"depth": 2, "hidden_size": 32},
    "vocab_size": 320,
}
SHAPES = {
    "model.embed_tokens.weight": (320, 64),
    "model.layers.1.mlp.up_proj.weight": (96, 64),
    "visual.blocks.0.attn.qkv.weight": (96, 32),
}


def make_native(folder: Path, **changes: Any) -> Path:
    write_qwen(folder)
    values = Values(0)
    held = {name: values.tensor(name, shape, "BF16") for name, shape in SHAPES.items()}
    write_weights(folder, held, weights="safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (folder / "preprocessor_config.json").write_text('{"patch_size": 14}')
    return folder


def awq(folder: Path, method: str = "awq") -> Path:
    config = json.loads((folder / "config.json").read_bytes())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("chat_template.jinja", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (CONFIG, Kind.NATIVE),
        ({"architectures": ["InternVLForConditionalGeneration"], "vision_config": {}}, Kind.NATIVE),
        ({"architectures": ["T5ForConditionalGeneration"]}, Kind.UNKNOWN),
        ({"architectures": ["InternVLChatModel"]}, Kind.INTERNVL),
        ({"model_type": "internvl_chat"}, Kind.INTERNVL),
        ({"architectures": ["LlavaForConditionalGeneration"], "vision_config": {}}, Kind.CONVERTED),
        *(
            (
                {
                    "architectures": ["LlavaForConditionalGeneration"],
                    "quantization_config": {"quant_method": method},
                },
                Kind.NATIVE,
            )
            for method in FOREIGN_METHODS
        ),
    ],
)
def test_kinds(config, kind):
    assert classify(["config.json", "model.safetensors"], config) is kind


def test_what_it_is_and_who_serves_it(tmp_path):
    facts = summarise(make_native(tmp_path / "Qwen2.5-VL-tiny"))
    assert facts["layout"] == "native"
    assert facts["class"] == QWEN
    assert facts["served_by"] == ["vllm", "sglang", "lmdeploy"]
    assert facts["weights"]["size_bytes"] == 2 * (320 * 64 + 96 * 64 + 96 * 32)
    assert facts["defects"] == []
    assert "pictures" not in facts
    by_precision = {row["gpu_bytes"] for row in facts["memory"]["by_precision"]}
    assert min(by_precision) > facts["weights"]["size_bytes"]


def test_an_internvl_says_what_it_is_and_who_serves_what_becomes_of_it(tmp_path):
    from tests.support.internvl_files import TinyInternVl, write_texts

    write_texts(tmp_path / "InternVL3-tiny", TinyInternVl())
    facts = summarise(tmp_path / "InternVL3-tiny")
    assert facts["layout"] == "internvl"
    assert facts["class"] == "InternVLForConditionalGeneration"
    assert facts["language_model"]["type"] == "qwen2"
    assert facts["served_by"] == []  # there are no weights
    config = json.loads((tmp_path / "InternVL3-tiny" / "config.json").read_bytes())
    assert served_elsewhere(Kind.INTERNVL, config, LOADS) == ["vllm", "lmdeploy"]
    config["llm_config"]["model_type"] = "phi3"
    assert served_elsewhere(Kind.INTERNVL, config, LOADS) == []
    assert "phi3" in native_defects(Kind.INTERNVL, config, "x", LOADS["vllm"])[0].message


def test_llava_packs_own_engine_refuses_it_and_names_who_does_not(tmp_path):
    with pytest.raises(CheckpointError, match=f"own engine does not run {QWEN}") as caught:
        read_checkpoint(make_native(tmp_path / "Qwen2.5-VL-tiny"))
    assert caught.value.exit_code is ExitCode.CHECKPOINT
    assert caught.value.hint.startswith("--runtime vllm or --runtime sglang or --runtime lmdeploy")
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(
            make_native(tmp_path / "new", architectures=["NewForConditionalGeneration"])
        )
    assert "--runtime" not in caught.value.hint


@pytest.mark.parametrize("method", FOREIGN_METHODS)
def test_a_llava_quantized_for_others_is_packed_as_it_is(tmp_path, method):
    folder = awq(make_converted(tmp_path / "llava-x-hf-awq"), method)
    layout, defects = survey(folder)
    assert (layout.kind, defects) == (Kind.NATIVE, [])
    assert precision_ahead(layout.config) is None
    with pytest.raises(
        CheckpointError, match=f"does not run weights quantized by {method}"
    ) as told:
        read_checkpoint(folder)
    assert "--runtime vllm" in told.value.hint
    facts = summarise(folder)
    assert facts["weights"]["quantized_ahead"] == method
    assert "vllm" in facts["served_by"]
    assert ("lmdeploy" in facts["served_by"]) is (method in ("awq", "gptq"))


def test_a_file_of_another_program_beside_them_stops_nothing(tmp_path):
    folder = awq(make_converted(tmp_path / "llava-x-hf-awq"))
    (folder / "quantize_config.json").write_text("{}")
    assert survey(folder)[1] == []


def test_a_runtime_says_what_it_loads():
    loads = Loads(layouts=("hf",), architectures=frozenset({QWEN}), precisions={})
    assert native_defects(Kind.NATIVE, CONFIG, "vLLM", loads) == []
    (other,) = native_defects(Kind.NATIVE, {**CONFIG, "architectures": ["X"]}, "vLLM", loads)
    assert other.message == f"the class is 'X', vLLM loads: {QWEN}"
    quantized = {**CONFIG, "quantization_config": {"load_in_4bit": True}}
    (bits,) = native_defects(Kind.NATIVE, quantized, "vLLM", loads)
    assert bits.message == "weights quantized by 'bitsandbytes', vLLM reads: none"
    assert served_elsewhere(Kind.ORIGINAL, CONFIG, LOADS) == []


def test_code_is_refused_as_in_any_other(tmp_path):
    folder = make_native(tmp_path / "x", auto_map={"AutoModel": "modeling_x.X"})
    with pytest.raises(CheckpointError, match="auto_map names code that would run"):
        read_layout(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("preprocessor_config.json", "preprocessor_config.json: is missing, and so is processor_"),
        ("chat_template.jinja", "chat_template.jinja: is missing: it has no chat template"),
    ],
)
def test_small_files_that_nothing_makes_up_for(tmp_path, name, text):
    folder = make_native(tmp_path / "x")
    (folder / name).unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_bytes())
    if name.endswith("jinja"):
        config.pop("chat_template")
    path.write_text(json.dumps(config))
    (found,) = survey(folder)[1]
    assert str(found).startswith(text)
    for place in ("chat_template.json", "processor_config.json"):
        if name.endswith("jinja"):
            (folder / place).write_text('{"chat_template": "{{ 1 }}"}')
            assert survey(folder)[1] == []
            (folder / place).unlink()


def test_bytes_are_those_of_the_files_at_every_precision():
    stored = Parameters(stored_bytes=10**9)
    config = native_values(CONFIG)
    wish = {"device": "cuda", "context_tokens": 100, "slots": 2}
    found = [footprint(stored, config, precision=one, **wish) for one in ("fp16", "nf4")]
    assert {one.weights_bytes for one in found} == {10**9}
    assert found[0].cache_bytes == 2 * 100 * 2 * 2 * 2 * 16 * 2
    assert found[0].kept_bytes == 0


def test_sizes_that_a_class_has_by_default_are_taken_from_the_tensors():
    entries = {name: TensorEntry(name, "BF16", shape) for name, shape in SHAPES.items()}
    values = native_values({"text_config": {"model_type": "x"}}, entries)
    assert values == {
        "vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1,
        "head_dim": 64, "intermediate_size": 256,
    }  # fmt: skip
