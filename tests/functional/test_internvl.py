"""OpenGVLab's InternVL in the `-hf` layout: what transformers' own class makes of it is the same."""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_pack.assemble.chat_template import jinja
from llava_pack.checkpoint.internvl import TEMPLATES, internvl
from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.layout import read_layout, survey
from llava_pack.convert.internvl import to_internvl
from llava_pack.engine import environment
from llava_pack.format.errors import CheckpointError
from llava_pack.format.exit_codes import ExitCode
from tests.support.internvl_files import PATCH, SIDE
from tests.support.internvl_files import TEMPLATES as PUBLISHED

pytestmark = pytest.mark.engine
environment.prepare()
torch: Any = pytest.importorskip("torch")
tiny: Any = pytest.importorskip("tests.support.internvl")
FORMS: dict[str, Any] = {
    "InternVL2_5 and 3 over Qwen2": tiny.TinyInternVl(),
    "1B, tied": tiny.TinyInternVl(tied=True, weights="bin"),
    "InternVL2 over InternLM2": tiny.TinyInternVl(language="internlm2"),
    "InternLM2 without groups": tiny.TinyInternVl(language="internlm2", groups=4, weights="bin"),
    "InternLM2 with biases": tiny.TinyInternVl(
        language="internlm2", llm_changes={"bias": True, "attention_bias": True}
    ),
    "26B: the large tower": tiny.TinyInternVl(language="internlm2", big_tower=True),
    "76B over Llama": tiny.TinyInternVl(language="llama"),
    "features of an earlier layer": tiny.TinyInternVl(layers=3, select=-2),
    "one tile": tiny.TinyInternVl(changes={"dynamic_image_size": False}),
}


def written(folder: Path, spec: Any) -> tuple[Any, Path]:
    """Return the model that was taken apart, and the folder that it was put together in."""
    source, out = folder / "InternVL-tiny", folder / "InternVL-tiny-hf"
    model = tiny.make_internvl(source, spec)
    out.mkdir()
    config = json.loads((source / "config.json").read_bytes())
    to_internvl(
        source, out, chat_template=jinja(internvl(config).template, picture="<IMG_CONTEXT>")
    )
    return model, out


def loaded(folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    model, report = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    return model.eval()


class Processor:
    """What transformers' InternVLProcessor does, which does not load without torchvision.

    Source: transformers models/internvl/processing_internvl.py (what stands for a picture).
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
            GotOcr2ImageProcessorPil,
        )

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._pictures = GotOcr2ImageProcessorPil.from_pretrained(folder)
        told = json.loads((folder / "processor_config.json").read_bytes())
        self._each = told["image_seq_length"]

    def asked(self, width: int, height: int) -> Any:
        from PIL import Image

        noise = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8).numpy()
        parts = [{"type": "image"}, {"type": "text", "text": "what is this?"}]
        tokenizer = self.tokenizer
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
        )
        given = self._pictures(images=[Image.fromarray(noise)], return_tensors="pt")
        tiles = int(given.pop("num_patches")[0])
        fill = tokenizer.context_image_token
        assert text.count(fill) == 1
        whole = (
            f"{tokenizer.start_image_token}{fill * self._each * tiles}{tokenizer.end_image_token}"
        )
        return {**tokenizer(text.replace(fill, whole), return_tensors="pt"), **given}


@pytest.mark.parametrize("name", FORMS)
def test_every_tensor_and_every_logit_is_that_of_transformers_own_class(tmp_path, name):
    spec = FORMS[name]
    model, out = written(tmp_path, spec)
    layout, defects = survey(tmp_path / "InternVL-tiny")
    assert layout.kind is Kind.INTERNVL
    assert [one.level for one in defects] == ["warn"], [str(one) for one in defects]
    assert "not run" in defects[0].message
    again, processor = loaded(out), Processor(out)
    mine, want = again.state_dict(), model.state_dict()
    assert mine.keys() == want.keys()
    different = [n for n, one in want.items() if not torch.equal(mine[n][: len(one)], one)]
    assert different == []
    model.config.image_token_id = model.model.config.image_token_id = again.config.image_token_id
    rows = model.config.text_config.vocab_size
    torch.manual_seed(1)
    for width, height in ((56, 56), (200, 60)):
        given = processor.asked(width, height)
        with torch.no_grad():
            got, wanted = (one(**given).logits[..., :rows] for one in (again, model))
        assert torch.equal(got, wanted)
    assert read_layout(out).kind is Kind.NATIVE
    assert not list(out.glob("*.py"))
    assert b"auto_map" not in b"".join(path.read_bytes() for path in out.glob("*.json"))


@pytest.mark.parametrize("language", ["qwen2", "internlm2"])
def test_a_prompt_is_the_one_of_the_authors_chat(tmp_path, language):
    spec = tiny.TinyInternVl(language=language)
    _, out = written(tmp_path, spec)
    model, processor = loaded(out), Processor(out)
    torch.manual_seed(2)
    given = processor.asked(200, 60)
    tiles = len(given["pixel_values"])
    assert tiles == 4  # three beside each other, and the small whole
    each = (SIDE // PATCH // 2) ** 2
    end = "<|im_end|>" if language == "internlm2" else "<|im_end|>\n"
    system = TEMPLATES[PUBLISHED[language]].system
    want = (
        f"<|im_start|>system\n{system}{end}"
        f"<|im_start|>user\n<img>{'<IMG_CONTEXT>' * each * tiles}</img>\nwhat is this?{end}"
        "<|im_start|>assistant\n"
    )
    ids = given["input_ids"][0].tolist()
    begun = "<s>" if language == "internlm2" else ""
    assert processor.tokenizer.decode(ids) == begun + want
    assert ids.count(model.config.image_token_id) == each * tiles
    ends = model.generation_config.eos_token_id
    assert ends[0] == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert set(ends[1:]) == ({1, 2} if language == "internlm2" else set())
    rows = model.get_input_embeddings().weight.shape[0]
    assert processor.tokenizer.convert_tokens_to_ids("<video>") < rows


def test_the_same_input_gives_the_same_bytes_in_any_number_of_shards(tmp_path):
    spec = tiny.TinyInternVl(language="internlm2")
    _, out = written(tmp_path, spec)
    digests = {}
    for name, size in (("again", 1 << 30), ("cut", 200_000)):
        folder = tmp_path / name
        folder.mkdir()
        template = (out / "chat_template.jinja").read_text()
        to_internvl(tmp_path / "InternVL-tiny", folder, chat_template=template, shard_bytes=size)
        digests[name] = {
            one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in folder.iterdir()
        }
    first = {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in out.iterdir()}
    assert digests["again"] == first
    assert len([name for name in digests["cut"] if name.startswith("model-")]) > 1
    whole, cut = (loaded(one).state_dict() for one in (out, tmp_path / "cut"))
    assert all(torch.equal(one, cut[name]) for name, one in whole.items())


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "InternVL2-4B": (
        {},
        {"model_type": "phi3"},
        "'phi3', expected one of: internlm2, llama, qwen2",
    ),
    "InternVL3_5": ({}, {"model_type": "qwen3"}, "'qwen3', expected one of"),
    "V2PE": ({}, {"rope_pos_id_version": "v2pe"}, "rope_pos_id_version"),
    "swapped sides": ({"ps_version": "v1"}, {}, "ps_version"),
    "padded": ({"pad2square": True}, {}, "pad2square"),
    "no small whole": ({"use_thumbnail": False}, {}, "use_thumbnail"),
    "another template": ({"template": "phi3-chat"}, {}, "template is 'phi3-chat'"),
    "another side": ({"force_image_size": 224}, {}, "force_image_size"),
    "a layer that is not there": ({"select_layer": -9}, {}, "select_layer"),
    "half a patch": ({"downsample_ratio": 0.4}, {}, "downsample_ratio"),
    "quantized": ({"quantization_config": {"quant_method": "awq"}}, {}, "quantized ahead"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_class_cannot_be_is_refused_with_the_way_out(tmp_path, name):
    changes, llm, words = REFUSED[name]
    tiny.make_internvl(tmp_path / "x")
    path = tmp_path / "x" / "config.json"
    config = json.loads(path.read_bytes()) | changes
    config["llm_config"] |= llm
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words) as caught:
        read_layout(tmp_path / "x")
    assert caught.value.exit_code is ExitCode.CHECKPOINT
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match=words):
        to_internvl(tmp_path / "x", tmp_path / "out", chat_template="")
    assert not list((tmp_path / "out").iterdir())


def test_an_adapter_that_was_not_merged_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny.make_internvl(tmp_path / "x", tiny.TinyInternVl(changes={"use_backbone_lora": 16}))
    assert read_layout(tmp_path / "x").kind is Kind.INTERNVL  # the number alone says nothing
    path = tmp_path / "x" / "model.safetensors"
    tensors = load_file(path)
    name = "vision_model.encoder.layers.0.attn.qkv.weight"
    wrapped = name.replace("vision_model.", "vision_model.base_model.model.")
    tensors[wrapped.replace(".weight", ".base_layer.weight")] = tensors.pop(name)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="was not merged") as caught:
        read_layout(tmp_path / "x")
    assert "merge_lora.py" in caught.value.hint


def test_tensors_that_lack_or_have_another_shape_are_told(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny.make_internvl(tmp_path / "x", tiny.TinyInternVl(language="internlm2"))
    path = tmp_path / "x" / "model.safetensors"
    tensors = load_file(path)
    del tensors["mlp1.3.bias"]
    tensors["language_model.model.layers.1.feed_forward.w2.weight"] = torch.zeros(3, 3)
    save_file(tensors, path)
    with pytest.raises(CheckpointError) as caught:
        read_layout(tmp_path / "x")
    assert "lack multi_modal_projector.linear_2.bias" in caught.value.message
    assert "layers.1.mlp.down_proj.weight: has shape (3, 3)" in caught.value.message
    name = "language_model.model.layers.0.attention.wqkv.weight"
    save_file({**load_file(path), name: torch.zeros(7, 64)}, path)
    with pytest.raises(CheckpointError, match="not queries, keys and values of 2 key-value heads"):
        read_layout(tmp_path / "x")


def test_no_torch_is_needed(tmp_path, monkeypatch):
    tiny.make_internvl(tmp_path / "x", replace(FORMS["1B, tied"], weights="safetensors"))
    (tmp_path / "out").mkdir()
    monkeypatch.setitem(sys.modules, "torch", None)
    to_internvl(tmp_path / "x", tmp_path / "out", chat_template="x")
