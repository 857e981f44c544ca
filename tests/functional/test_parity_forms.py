"""Every family in every form that `build` can pack it in: the answers that LLaVA's own code gave.

Merged (`--merge`), and in transformers' own layout (`--format hf`), read by the engine and by plain
transformers; quantized while loading, by the engine and by transformers.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_pack.assemble.chat_template import chat_template
from llava_pack.checkpoint.kind import backbone
from llava_pack.checkpoint.token_files import named_specials
from llava_pack.convert.merge import merged_parts
from llava_pack.convert.native import to_native
from llava_pack.convert.native_config import SKIPPED
from llava_pack.convert.native_tokenizer import is_legacy
from llava_pack.convert.parts import Parts, original_parts, read_json
from llava_pack.convert.shards import write_shards
from llava_pack.engine import environment
from llava_pack.engine.loading.load import load_engine
from llava_pack.format.errors import CheckpointError
from tests.functional.test_native_format import load
from tests.functional.test_parity import (
    TOLERANCE,
    answer,
    check,
    golden,
    messages,
    recorded_logits,
    request,
)
from tests.support.families import FAMILIES, LOGITS, MAX_TOKENS, Family, Made, make

pytestmark = pytest.mark.engine
environment.prepare()
BASED = [name for name, family in FAMILIES.items() if family.base]
KINDS: dict[str, dict[str, Any]] = {
    "nf4": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "float32",
    },
    "int8": {"load_in_8bit": True},
}
OTHERS = ("linear", "flat-tiles")
"""Families that transformers' LLaVA has no place for."""
NATIVE = [name for name in FAMILIES if name not in OTHERS]


@contextmanager
def parts_of(made: Made) -> Iterator[Parts]:
    """Open a family as `build --merge` and `build --format hf` do."""
    opened = (
        original_parts(made.model) if made.base is None else merged_parts(made.model, made.base)
    )
    with opened as parts:
        yield parts


def native(made: Made, family: Family, out: Path) -> Path:
    """Write a family in transformers' own layout."""
    out.mkdir()
    texts = made.base or made.model
    config = read_json(made.model / "config.json")
    legacy = is_legacy(read_json(texts / "tokenizer_config.json"), backbone(config))
    ends = bool(config.get("mm_use_im_start_end", False))
    template = chat_template(
        family.conv_mode, legacy=legacy, picture_ends=ends, named=named_specials(texts)
    )
    with parts_of(made) as parts:
        to_native(parts, made.tower, out, chat_template=template)
    return out


@pytest.mark.parametrize("name", BASED)
def test_merged(name, tmp_path):
    family = FAMILIES[name]
    made = make(family, tmp_path)
    merged = tmp_path / "llava-v1-merged"
    shutil.copytree(made.base, merged, ignore=shutil.ignore_patterns("*.safetensors*"))
    with parts_of(made) as parts:
        write_shards(parts.tensors, merged)
    shutil.copy(made.model / "config.json", merged)
    check(family, Made(merged, None, made.tower), golden(name)["chats"])


@pytest.fixture(scope="module", params=NATIVE)
def converted(request, tmp_path_factory):
    """A family, its folder in transformers' own layout, and what LLaVA's own code made of it."""
    family = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    made = make(family, folder)
    out = native(made, family, folder / "converted")
    return family, made, out, golden(request.param)["chats"]


@pytest.mark.parametrize("name", OTHERS)
def test_what_transformers_has_no_place_for_is_refused(name, tmp_path):
    made = make(FAMILIES[name], tmp_path)
    with pytest.raises(CheckpointError, match="transformers' LLaVA") as caught:
        native(made, FAMILIES[name], tmp_path / "converted")
    assert "without --format hf" in caught.value.hint


@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_quantized_as_transformers_quantizes(converted, precision):
    """Both compute in 32 bits here, as the engine does on a CPU."""
    from transformers import BitsAndBytesConfig

    family, made, out, _ = converted
    config = BitsAndBytesConfig(**KINDS[precision], llm_int8_skip_modules=list(SKIPPED))
    plain = load(out, quantization_config=config)
    engine = load_engine(
        made.model,
        model_base=made.base,
        precision=precision,
        slots=1,
        conv_mode=family.conv_mode,
    )
    for name in ("turns", "text"):
        asked = request(family.asked[name])
        given: Any = plain.inputs(asked.messages)
        told = plain.model.generate(**given, max_new_tokens=MAX_TOKENS, do_sample=False)
        assert told[0, given["input_ids"].shape[1] :].tolist() == answer(engine, asked), name


def test_in_transformers_own_layout(converted):
    family, made, out, recorded = converted
    check(family, Made(out, None, made.tower), recorded)


def test_plain_transformers_gives_the_logits(converted):
    import torch

    family, _, out, recorded = converted
    plain = load(out)
    for name, chat in family.asked.items():
        given: Any = plain.inputs(messages(chat))
        with torch.inference_mode():
            logits = plain.model(**given).logits[0, -1, :LOGITS].numpy()
        assert np.abs(logits - recorded_logits(recorded[name])).max() <= TOLERANCE, name
