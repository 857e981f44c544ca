"""What training tools leave is served, unmerged and merged, as peft's own merged model answers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_pack.checkpoint.layout import survey
from llava_pack.checkpoint.summary import summarise
from llava_pack.convert.merge import merged_parts
from llava_pack.convert.shards import write_shards
from llava_pack.convert.tokenizer import made_tokenizer
from llava_pack.engine import environment
from llava_pack.engine.loading.load import load_engine
from tests.functional.test_parity import TOLERANCE, logits, request
from tests.support import trained

pytestmark = pytest.mark.engine
environment.prepare()
QUANTIZED_TOLERANCE = 1e-4


def loaded(model: Path, base: Path | None = None, precision: str = "fp32") -> Any:
    return load_engine(model, model_base=base, precision=precision, slots=1, conv_mode=trained.MODE)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return trained.make_base(tmp_path_factory.mktemp("base") / "llava-1.5-tiny-hf")


@pytest.mark.parametrize("tool", trained.adapters())
def test_an_adapter_over_a_converted_llava(tool, base, tmp_path):
    adapter = trained.make_adapter(tool, tmp_path / "tuned")
    want = trained.golden(tool)
    assert np.abs(logits(loaded(adapter, base), trained.CHAT) - want).max() <= TOLERANCE
    assert np.abs(logits(loaded(base), trained.CHAT) - want).max() > 1000 * TOLERANCE
    merged = tmp_path / "llava-merged-hf"
    shutil.copytree(base, merged, ignore=shutil.ignore_patterns("*.safetensors"))
    with merged_parts(adapter, base) as parts:
        write_shards(parts.tensors, merged)
    assert json.loads((merged / "config.json").read_bytes()) == parts.config
    assert np.abs(logits(loaded(merged), trained.CHAT) - want).max() <= TOLERANCE


QUANTIZED: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4-double": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    "fp4": {"load_in_4bit": True},
    "fp4-double": {"load_in_4bit": True, "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
}


def resaved(base: Path, out: Path, **options: Any) -> Path:
    """Save a converted LLaVA and its processor again with transformers of today."""
    from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    LlavaForConditionalGeneration.from_pretrained(base, **options).save_pretrained(out)
    made = made_tokenizer(base)
    (out / "tokenizer.json").write_bytes(made)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(out / "tokenizer.json"), bos_token="<s>", eos_token="</s>"
    )
    pictures = LlavaImageProcessorPil.from_pretrained(base)
    LlavaProcessor(pictures, tokenizer, patch_size=14).save_pretrained(out)
    shutil.copy(base / "tokenizer.model", out)
    return out


def test_a_folder_that_transformers_saves_today(base, tmp_path):
    folder = resaved(base, tmp_path / "llava-tuned")
    assert not (folder / "preprocessor_config.json").exists()
    assert [str(one) for one in survey(folder)[1]] == []
    assert summarise(folder)["pictures"]["prepared"] == "padded to a square"
    want = logits(loaded(base), trained.CHAT)
    assert np.abs(logits(loaded(folder), trained.CHAT) - want).max() <= TOLERANCE


@pytest.mark.parametrize("kind", QUANTIZED)
def test_everything_quantized_as_transformers_does_by_default(kind, base, tmp_path):
    """Tower and projector too; what is compared with is transformers' own model of that folder."""
    import torch
    from transformers import BitsAndBytesConfig, LlavaForConditionalGeneration

    given = BitsAndBytesConfig(**QUANTIZED[kind])
    folder = resaved(base, tmp_path / "llava-tuned", quantization_config=given)
    assert [str(one) for one in survey(folder)[1]] == []
    engine = loaded(folder, precision="auto")
    model: Any = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = engine._model.write(request(trained.CHAT))
    pixels = torch.from_numpy(engine._model._vision.processor.tiles(prompt.pictures[0]))
    image = next(one for one in range(320) if one not in prompt.ids)
    model.model.config.image_token_id = image
    ids = torch.tensor([[image if one == -200 else one for one in prompt.ids]])
    with torch.inference_mode():
        want = model(input_ids=ids, pixel_values=pixels).logits[0, -1, :128].numpy()
    assert np.abs(logits(engine, trained.CHAT) - want).max() <= QUANTIZED_TOLERANCE
    plain = logits(loaded(base), trained.CHAT)
    assert np.abs(want - plain).max() > 100 * QUANTIZED_TOLERANCE
