"""What training tools leave is served, unmerged and merged, as peft's own merged model answers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_pack.checkpoint.keymap import original_name
from llava_pack.checkpoint.kind import ADAPTERS, TRAINABLES, Kind
from llava_pack.checkpoint.layout import read_layout, survey
from llava_pack.checkpoint.summary import summarise
from llava_pack.convert.merge import merged_parts
from llava_pack.convert.native_form import native_form
from llava_pack.convert.shards import opened, renamed, write_shards
from llava_pack.convert.tokenizer import made_tokenizer
from llava_pack.convert.tower import slim_tower
from llava_pack.engine import environment
from llava_pack.engine.loading.load import load_engine
from llava_pack.format.errors import CheckpointError
from tests.functional.test_parity import TOLERANCE, logits, request
from tests.support import trained
from tests.support.checkpoints import (
    Tensors,
    make_language,
    make_llava,
    make_lora,
    make_tower,
    save_tensors,
)
from tests.unit.checkpoint.test_families import change, tensors_of

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
    folder = resaved(base, tmp_path / "llava-v1.5-tuned-hf")
    assert not (folder / "preprocessor_config.json").exists()
    assert [str(one) for one in survey(folder)[1]] == []
    assert summarise(folder)["pictures"]["prepared"] == "padded to a square"
    want = logits(loaded(base), trained.CHAT)
    assert np.abs(logits(loaded(folder), trained.CHAT) - want).max() <= TOLERANCE


@pytest.mark.parametrize("kind", QUANTIZED)
def test_everything_quantized_as_transformers_does_by_default(kind, base, tmp_path):
    """Tower and projector too; what is compared with is transformers' own model of that folder."""
    from transformers import BitsAndBytesConfig

    given = BitsAndBytesConfig(**QUANTIZED[kind])
    folder = resaved(base, tmp_path / "llava-v1.5-tuned-hf", quantization_config=given)
    assert [str(one) for one in survey(folder)[1]] == []
    engine = loaded(folder, precision="auto")
    want = answered(folder, engine)
    assert np.abs(logits(engine, trained.CHAT) - want).max() <= QUANTIZED_TOLERANCE
    plain = logits(loaded(base), trained.CHAT)
    assert np.abs(want - plain).max() > 100 * QUANTIZED_TOLERANCE


def answered(folder: Path, engine: Any) -> Any:
    """Return the logits of transformers' own model for what the engine is asked."""
    import torch
    from transformers import LlavaForConditionalGeneration

    model: Any = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = engine._model.write(request(trained.CHAT))
    pixels = torch.from_numpy(engine._model._vision.processor.tiles(prompt.pictures[0]))
    image = next(one for one in range(320) if one not in prompt.ids)
    model.model.config.image_token_id = image
    ids = torch.tensor([[image if one == -200 else one for one in prompt.ids]])
    with torch.inference_mode():
        scores = model(input_ids=ids, pixel_values=pixels).logits
    return scores[0, -1, :128].numpy()


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_a_context_that_training_made_longer(base, tmp_path, key):
    """As Vicuna of 16k: what positions are divided by, the context is multiplied by."""
    folder = shutil.copytree(base, tmp_path / "llava-16k-hf")
    config = json.loads((base / "config.json").read_bytes())
    config["text_config"]["rope_scaling"] = {key: "linear", "factor": 4.0}
    config["text_config"]["max_position_embeddings"] = 1024
    (folder / "config.json").write_text(json.dumps(config))
    engine = loaded(folder)
    assert engine.info.context_tokens == 4096
    assert summarise(folder)["language_model"]["context_tokens"] == 4096
    got = logits(engine, trained.CHAT)
    assert np.abs(got - answered(folder, engine)).max() <= TOLERANCE
    assert np.abs(got - logits(loaded(base), trained.CHAT)).max() > 1000 * TOLERANCE


@pytest.mark.parametrize("frozen", [False, True])
def test_llavas_own_adapter_over_a_llava(base, tmp_path, frozen):
    """Its task LoRA: the twin of a converted pair, whose answers are peft's."""
    tower = make_tower(tmp_path / "clip-tiny", trained.TOWER)
    changes = {"mm_vision_tower": str(tower), "rms_norm_eps": 1e-6}
    spec = replace(trained.BASE, changes=changes, vision_inside=True)
    original = make_llava(tmp_path / "llava-v1.5-tiny", spec)
    adapter = make_lora(tmp_path / "llava-v1.5-tiny-task-lora", spec)
    recorded = tensors_of(trained.make_adapter("swift", tmp_path / "twin") / ADAPTERS[0])
    save_tensors(
        adapter / ADAPTERS[1],
        {name.replace(".language_model.", "."): one for name, one in recorded.items()},
    )
    if frozen:
        save_tensors(adapter / TRAINABLES[1], {})
    else:
        change(original / "pytorch_model.bin", unlearn_projector)
    want = trained.golden("swift")
    assert np.abs(logits(loaded(adapter, original), trained.CHAT) - want).max() <= TOLERANCE
    merged = tmp_path / "llava-merged"
    shutil.copytree(original, merged, ignore=shutil.ignore_patterns("*.bin"))
    shutil.copy(adapter / "config.json", merged)
    with merged_parts(adapter, original) as parts:
        write_shards(parts.tensors, merged)
    assert np.abs(logits(loaded(merged), trained.CHAT) - want).max() <= TOLERANCE


def unlearn_projector(tensors: Tensors) -> None:
    """Let a base have another projector than the one that was trained along."""
    for name in [name for name in tensors if "mm_projector" in name]:
        tensors[name] = replace(tensors[name], data=bytes(len(tensors[name].data)))


@pytest.mark.parametrize("base_kind", ["language", "converted", "other"])
def test_a_base_that_an_adapter_was_not_trained_on(base, tmp_path, base_kind):
    """A frozen projector is nowhere beside a language model alone; and so on."""
    spec = replace(trained.BASE, tower=trained.TOWER)
    adapter = make_lora(tmp_path / "llava-v1.5-tiny-lora", spec)
    save_tensors(adapter / TRAINABLES[1], {})
    other = {
        "language": lambda: make_language(tmp_path / "vicuna", spec),
        "converted": lambda: base,
        "other": lambda: make_llava(tmp_path / "llava-v1-other", replace(spec, layers=1)),
    }[base_kind]()
    text = {
        "language": r"neither adapter nor base has model\.mm_projector",
        "converted": "expected a base in LLaVA's original layout",
        "other": r"the base has no model\.layers\.1\.",
    }[base_kind]
    with pytest.raises(CheckpointError, match=text) as caught:
        loaded(adapter, other)
    assert caught.value.hint
    with pytest.raises(CheckpointError, match=text), merged_parts(adapter, other):
        pass


def test_an_adapter_over_weights_that_were_quantized_ahead(base, tmp_path):
    from transformers import BitsAndBytesConfig

    given = BitsAndBytesConfig(**QUANTIZED["nf4"])
    ahead = resaved(base, tmp_path / "llava-nf4", quantization_config=given)
    adapter = trained.make_adapter("trl", tmp_path / "tuned")
    with pytest.raises(CheckpointError, match="quantized ahead of time") as caught:
        loaded(adapter, ahead)
    assert "unquantized base" in caught.value.hint


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_weights_quantized_in_the_original_layout(kind, base, tmp_path):
    """What LLaVA's own class saves after loading in 4 or 8 bits: as converted, but for the names."""
    from transformers import BitsAndBytesConfig

    given = BitsAndBytesConfig(**QUANTIZED[kind])
    twin = resaved(base, tmp_path / "llava-v1.5-tuned-hf", quantization_config=given)
    tower = make_tower(tmp_path / "clip-tiny", trained.TOWER)
    changes = {
        "mm_vision_tower": str(tower),
        "rms_norm_eps": 1e-6,
        "quantization_config": given.to_dict(),
    }
    spec = replace(trained.BASE, changes=changes, vision_inside=True)
    folder = make_llava(tmp_path / "llava-v1.5-tuned", spec)
    (folder / "pytorch_model.bin").unlink()
    with opened([twin / "model.safetensors"]) as tensors:
        write_shards([renamed(one, original_name(one.entry.name)) for one in tensors], folder)
    assert [str(one) for one in survey(folder)[1]] == []
    engine = loaded(folder, precision="auto")
    assert engine.info.precision == kind
    want = logits(loaded(twin, precision="auto"), trained.CHAT)
    assert np.abs(logits(engine, trained.CHAT) - want).max() <= TOLERANCE
    with pytest.raises(CheckpointError, match="quantized ahead of time"):
        native_form(read_layout(folder).config, {}, {})


def test_a_tower_that_transformers_saves_today(tmp_path):
    """Its names lack what was in front of them, and the pictures are told in another file."""
    from transformers import CLIPVisionModel

    published = make_tower(tmp_path / "clip-tiny", trained.TOWER)
    saved = tmp_path / "clip-tuned"
    read = CLIPVisionModel.from_pretrained(published)
    made = CLIPVisionModel(read.config)  # else it is saved under the names that it was read by
    made.load_state_dict(read.state_dict())
    made.save_pretrained(saved)
    pictures = json.loads((published / "preprocessor_config.json").read_bytes())
    (saved / "processor_config.json").write_text(json.dumps({"image_processor": pictures}))
    assert "vision_model." not in "".join(tensors_of(saved / "model.safetensors"))
    assert [str(one) for one in survey(saved, expect=Kind.TOWER)[1]] == []
    slim = tmp_path / "slim"
    slim.mkdir()
    slim_tower(saved, slim)
    assert json.loads((slim / "preprocessor_config.json").read_bytes()) == pictures
    assert all(name.startswith("vision_model.") for name in read_layout(slim).entries)
    model = make_llava(tmp_path / "llava-v1.5-tiny", trained.BASE)
    want, *others = (
        logits(
            load_engine(model, vision_tower=one, precision="fp32", slots=1, conv_mode=trained.MODE),
            trained.CHAT,
        )
        for one in (published, saved, slim)
    )
    assert all(np.abs(other - want).max() <= TOLERANCE for other in others)
