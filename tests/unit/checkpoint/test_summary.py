import json

import pytest

from llava_pack.checkpoint.summary import summarise
from tests.support.checkpoints import (
    TinyLlava,
    make_converted,
    make_language,
    make_llava,
    make_lora,
    make_tower,
)


@pytest.fixture
def folder(tmp_path):
    make_tower(tmp_path / "clip-tiny")
    return make_llava(tmp_path / "llava-v1.5-tiny")


def test_an_original_with_its_tower(folder):
    facts = summarise(folder)
    assert facts["layout"] == "original"
    assert facts["language_model"] == {
        "type": "llama", "layers": 2, "width": 32, "heads": 4, "vocabulary": 320,
        "context_tokens": 2048,
    }  # fmt: skip
    assert facts["pictures"] == {
        "prepared": "padded to a square", "projector": "mlp2x_gelu", "pixels": 28, "tokens": 4,
    }  # fmt: skip
    assert facts["vision_tower"]["folder"] == str(folder.parent / "clip-tiny")
    assert facts["weights"]["tensors"] == 25
    assert facts["weights"]["types"] == ["F16"]
    rows = facts["memory"]["by_precision"]
    assert [row["precision"] for row in rows] == ["fp32", "fp16", "bf16", "int8", "nf4"]
    assert facts["defects"] == []


def test_without_the_tower_memory_is_unknown(tmp_path):
    facts = summarise(make_llava(tmp_path / "llava-v1.5-tiny"))
    assert "memory" not in facts
    assert facts["vision_tower"]["folder"] is None
    assert [defect["level"] for defect in facts["defects"]] == ["warn"]


def test_failures_come_before_warnings(folder):
    folder = folder.rename(folder.parent / "01")
    (folder / "x.so").write_text("")
    (folder / "pytorch_model-00001-of-00002.bin").unlink()
    levels = [defect["level"] for defect in summarise(folder)["defects"]]
    assert levels == ["fail", "fail", "warn", "warn"]


def test_every_other_kind(tmp_path):
    tiles = summarise(make_converted(tmp_path / "x-hf", TinyLlava(tiles=True)))
    assert tiles["layout"] == "hf"
    assert tiles["pictures"]["prepared"] == "cut into tiles"
    assert tiles["memory"]
    lora = summarise(make_lora(tmp_path / "llava-v1.5-lora"))
    assert lora["base_model"] == "lmsys/vicuna-tiny"
    assert "memory" not in lora
    with_tower = summarise(tmp_path / "llava-v1.5-lora", make_tower(tmp_path / "clip"))
    assert len(with_tower["memory"]["by_precision"]) == 5
    language = summarise(make_language(tmp_path / "vicuna"))
    assert "pictures" not in language
    assert language["defects"] == []
    cropped = summarise(
        make_llava(tmp_path / "llava-v1", TinyLlava(changes={"image_aspect_ratio": None}))
    )
    assert cropped["pictures"]["prepared"] == "cropped to a square"
    (tmp_path / "empty").mkdir()
    unknown = summarise(tmp_path / "empty")
    assert unknown["layout"] == "unknown"
    json.dumps([tiles, lora, language, cropped, unknown])


def test_memory_is_that_of_the_context_and_the_requests_asked_for(folder):
    def nf4(**wish):
        return summarise(folder, **wish)["memory"]["by_precision"][-1]

    one, many = nf4(), nf4(context_tokens=8192, requests=64)
    assert (one["precision"], many["precision"]) == ("nf4", "nf4")
    for key in ("gpu_bytes", "ram_without_gpu_bytes"):
        assert one[key] < many[key]


@pytest.mark.parametrize(
    ("said", "prepared"), [({}, "padded to a square"), ({"do_pad": False}, "cropped to a square")]
)
def test_a_conversion_pads_unless_it_says_that_it_does_not(tmp_path, said, prepared):
    folder = make_converted(tmp_path / "llava-1.5-tiny-hf")
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    assert summarise(folder)["pictures"]["prepared"] == prepared


@pytest.mark.parametrize(
    ("ahead", "told"),
    [
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4"),
        ({"load_in_8bit": True}, "int8"),
        ({"quant_method": "awq"}, "awq"),
    ],
)
def test_what_was_quantized_ahead_is_said(tmp_path, ahead, told):
    folder = make_converted(tmp_path / "llava-1.5-tiny-hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": ahead}))
    assert summarise(folder)["weights"]["quantized_ahead"] == told


def test_a_config_without_sizes_still_tells_the_rest(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config))
    facts = summarise(folder)
    assert "memory" not in facts
    assert any("hidden_size is None" in defect["message"] for defect in facts["defects"])


def test_who_can_serve_it_is_said(folder, tmp_path):
    assert summarise(folder)["served_by"] == ["transformers", "upstream"]
    converted = make_converted(tmp_path / "llava-v1.5-tiny-hf")
    assert summarise(converted)["served_by"] == ["transformers", "vllm", "sglang", "lmdeploy"]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mm_projector_type": "resampler"}))
    assert summarise(folder)["served_by"] == []
