"""`--format hf` and `--quantize` of Qwen2 and SigLIP: plain transformers loads and answers alike."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_pack.assemble.chat_template import chat_template
from llava_pack.checkpoint.layout import survey
from llava_pack.checkpoint.safetensors_file import SafetensorsFile
from llava_pack.convert.native import to_native
from llava_pack.convert.parts import original_parts
from llava_pack.engine import environment
from llava_pack.format.precision import QUANTIZED
from tests.support.byte_level import write_llama_3, write_qwen
from tests.support.checkpoints import (
    TinyLlava,
    TinyTower,
    llava_tensors,
    make_llava,
    make_tower,
    write_weights,
)
from tests.support.pickles import Stored

pytestmark = pytest.mark.engine
environment.prepare()
pytest.importorskip("torch")
newer: Any = pytest.importorskip("tests.support.newer")
ASKED = ("wide", "tall", "scaled-down", "text")
STRANGE = {
    "model.segmenter.weight": Stored("F16", (2, 2), bytes(8)),
    "model.image_newline": Stored("F16", (64,), bytes(128)),
}
"""What a fine-tuned model brings that nothing needs: a head, and what only tiles are joined with."""


PROMPT = chat_template(newer.MODE, legacy=False)


def changed(spec: TinyLlava, **changes: object) -> TinyLlava:
    return replace(spec, changes={**spec.changes, **changes})


PLAIN = replace(newer.ONEVISION, tiles=False)
FORMS = {
    "LlavaOnevision": newer.ONEVISION,
    "LlavaOnevision, tied": newer.TIED,
    "LlavaOnevision, tower beside": replace(newer.ONEVISION, vision_inside=False),
    "LlavaOnevision, CLIP and Llama": replace(
        newer.ONEVISION,
        qwen=False,
        tower=TinyTower(width=32, inner=48, layers=4, picture=30, patch=7, dtype="F16"),
        changes={
            "image_aspect_ratio": "anyres_max_4",
            "image_grid_pinpoints": [[60, 30], [30, 60], [60, 60], [90, 90]],
        },
    ),
    "LlavaNext": changed(newer.ONEVISION, image_aspect_ratio="anyres"),
    "Llava": PLAIN,
    "Llava, squashed": changed(PLAIN, image_aspect_ratio="square"),
}


def make_original(folder: Path, spec: TinyLlava) -> Path:
    """Write a model with tensors that nothing needs."""
    make_tower(folder / "siglip-tiny", spec.tower)
    model = make_llava(folder / "llava-v1-ov-tiny", replace(spec, shards=1))
    write_weights(model, {**STRANGE, **llava_tensors(spec)}, weights="safetensors")
    return model


def written(model: Path, out: Path, precision: Any = None, template: str = PROMPT) -> Path:
    """Write a model in transformers' own layout."""
    from llava_pack.convert.quantize import quantize

    out.mkdir()
    tower = model.parent / "siglip-tiny"
    with original_parts(model, writable=precision is not None) as parts:
        if precision is None:
            to_native(parts, tower, out, chat_template=template)
        else:
            quantize(parts, tower, out, precision=precision, chat_template=template)
    return out


def load(folder: Path, precision: str = "fp32") -> Any:
    from llava_pack.engine.loading.load import load_engine

    return load_engine(folder, precision=precision, slots=1, conv_mode=newer.MODE)


@pytest.mark.parametrize("name", FORMS)
def test_plain_transformers_and_the_engine_answer_as_the_original(tmp_path, name):
    model = make_original(tmp_path, FORMS[name])
    _, defects = survey(model)
    assert [d.level for d in defects] == ["warn"], [str(d) for d in defects]
    assert "tensors that nothing needs, which are left out: " in defects[0].message
    out = written(model, tmp_path / "llava-v1-ov-tiny-hf")
    assert survey(out)[1] == []
    config = json.loads((out / "config.json").read_bytes())
    assert config["architectures"] == [f"{name.partition(',')[0]}ForConditionalGeneration"]
    engine, again = load(model), load(out)
    oracle = newer.oracle(out)
    for question in ASKED:
        messages = newer.asked(question)
        tokens = newer.answer(engine, messages)
        assert newer.answer(again, messages) == tokens, question
        assert oracle.answer(engine, messages) == tokens, question


@pytest.mark.parametrize("precision", QUANTIZED)
def test_quantized_ahead_as_while_loading(tmp_path, precision):
    model = make_original(tmp_path, newer.TIED)
    out = written(model, tmp_path / "llava-v1-ov-tiny-hf", precision)
    assert survey(out)[1] == []
    ahead, at_load = load(out, "auto"), load(model, precision)
    assert ahead.info.precision == precision
    for question in ASKED:
        messages = newer.asked(question)
        assert newer.answer(ahead, messages) == newer.answer(at_load, messages), question


def test_prompts_of_the_processor_that_is_written(tmp_path):
    from transformers import AutoTokenizer, LlavaOnevisionProcessor

    model = make_original(tmp_path, newer.ONEVISION)
    out = written(model, tmp_path / "llava-v1-ov-tiny-hf")
    engine, oracle = load(model), newer.oracle(out)
    settings = json.loads((out / "processor_config.json").read_bytes())
    assert settings.pop("processor_class") == "LlavaOnevisionProcessor"
    config = json.loads((out / "config.json").read_bytes())
    processor = object.__new__(LlavaOnevisionProcessor)
    processor.image_processor, processor.tokenizer = oracle.processor, None
    for key, value in settings.items():
        setattr(processor, key, value)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.convert_tokens_to_ids("<image>") == config["image_token_index"]
    assert tokenizer.convert_tokens_to_ids("<video>") == config["video_token_index"]
    for question in (*newer.SIZES, "two"):
        messages = newer.asked(question)
        made = oracle.processor(
            [[newer.image(one) for one in messages[0].pictures]], return_tensors="pt"
        )
        counted = [
            processor.replace_image_token(made, place).count("<image>")
            for place in range(len(messages[0].pictures))
        ]
        assert tuple(counted) == engine._model.write(newer.request(messages)).spans, question


@pytest.mark.parametrize(
    ("write", "conv_mode", "opening"),
    [
        (write_qwen, "qwen_1_5", "<|im_start|>"),
        (write_llama_3, "llava_llama_3", "<|begin_of_text|>"),
    ],
)
def test_a_byte_level_tokenizer_and_its_prompts(tmp_path, write, conv_mode, opening):
    """As it is published: no `<unk>`, rows that no word has, a template with special tokens."""
    from transformers import AutoTokenizer

    from llava_pack.engine.loading.load import load_engine

    spec = replace(newer.TIED, vocabulary=640, qwen=write is write_qwen)
    model = make_original(tmp_path, spec)
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        (model / name).unlink()
    write(model)
    template = chat_template(conv_mode, legacy=True)
    out = written(model, tmp_path / "llava-v1-ov-tiny-hf", template=template)
    options: Any = {"precision": "fp32", "slots": 1}
    engine = load_engine(model, conv_mode=conv_mode, **options)
    again = load_engine(out, **options)
    tokenizer = AutoTokenizer.from_pretrained(out)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    for question in ("wide", "two", "text"):
        messages = newer.asked(question)
        ids = engine._model.write(newer.request(messages)).ids
        assert again._model.write(newer.request(messages)).ids == ids
        content = [{"type": "image"} for _ in messages[0].pictures]
        turns = [{"role": "user", "content": [*content, {"type": "text", "text": "what is this?"}]}]
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        made = tokenizer(text)["input_ids"]
        seen = [image_id if one == -200 else one for one in ids]
        assert [one for one, _ in itertools.groupby(made)] == [
            one for one, _ in itertools.groupby(seen)
        ]
        assert newer.answer(again, messages) == newer.answer(engine, messages)
    config = json.loads((out / "config.json").read_bytes())
    filler = tokenizer.convert_tokens_to_ids(opening)
    with SafetensorsFile(out / "model.safetensors") as file:
        (table,) = [e for e in file.entries if e.name.endswith("embed_tokens.weight")]
        data = bytes(file.read(table))
    row_bytes = 2 * spec.hidden
    rows = [data[at : at + row_bytes] for at in range(0, len(data), row_bytes)]
    assert len(rows) == config["text_config"]["vocab_size"]
    assert set(rows[len(tokenizer) :]) == {rows[filler]}
