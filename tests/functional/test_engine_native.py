"""Folders in transformers' own layout, quantized ones too: the tokens that transformers gives."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from llava_pack.assemble.chat_template import chat_template
from llava_pack.convert.native import to_native
from llava_pack.convert.parts import original_parts
from llava_pack.convert.quantize import quantize
from llava_pack.engine import environment
from llava_pack.engine.loading.load import load_engine
from llava_pack.engine.port import Delta, Message, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import CheckpointError, UsageError
from tests.functional.test_native_format import QUESTIONS, SPEC, Native
from tests.support.checkpoints import TinyTower, make_converted, make_llava, make_tower

pytestmark = pytest.mark.engine
environment.prepare()
TOWER = TinyTower(picture=56, layers=4, dtype="F16")
PLAIN = replace(SPEC, tower=TOWER)
TILES = replace(PLAIN, tiles=True, vision_inside=True)
SPECS = {"v1.5": PLAIN, "v1.6": TILES, "v1.6-mistral": replace(TILES, mistral=True)}
MODE = "llava_v1"
AHEAD = [("v1.5", "nf4"), ("v1.6", "int8"), ("v1.6-mistral", "nf4")]
AT_LOAD = [("v1.5", "int8"), ("v1.6", "nf4"), ("v1.6-mistral", "int8")]
"""Each model and each precision in either comparison; every pair is in one of them."""


def answers(engine: Any, questions: Sequence[tuple[Message, ...]]) -> list[list[int]]:
    """Return the greedy answers, one by one."""
    found = []
    for number, messages in enumerate(questions):
        sampling = Sampling(max_tokens=64)
        engine.submit(Request(request_id=str(number), messages=messages, sampling=sampling))
        events = []
        while not engine.idle:
            events += engine.step()
        found.append([t for e in events if isinstance(e, Delta) for t in e.token_ids])
    return found


@dataclass(frozen=True)
class Made:
    model: Path
    tower: Path

    @property
    def template(self) -> str:
        config = json.loads((self.model / "config.json").read_bytes())
        return chat_template(MODE, legacy=config["model_type"] == "llava_mistral")

    def native(self, out: Path) -> Path:
        out.mkdir()
        with original_parts(self.model) as parts:
            to_native(parts, self.tower, out, chat_template=self.template)
        return out

    def quantized(self, out: Path, precision: Any) -> Path:
        out.mkdir()
        with original_parts(self.model, writable=True) as parts:
            quantize(parts, self.tower, out, precision=precision, chat_template=self.template)
        return out


@pytest.fixture(scope="module", params=SPECS)
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    spec = SPECS[request.param]
    tower = make_tower(folder / "clip-tiny", spec.tower)
    return Made(make_llava(folder / "llava-v1-tiny", spec), tower)


def test_the_native_folder_answers_as_the_original(made, tmp_path):
    options: Any = {"precision": "fp32", "slots": 1, "conv_mode": MODE}
    want = answers(load_engine(made.model, **options), QUESTIONS)
    native = made.native(tmp_path / "llava-v1-tiny-hf")
    assert answers(load_engine(native, **options), QUESTIONS) == want


@pytest.mark.parametrize(("made", "precision"), AHEAD, indirect=["made"])
def test_quantized_ahead_answers_as_plain_transformers(made, tmp_path, precision):
    """Both compute in 32 bits here: what is compared is the codes, the scales and the pictures."""
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = made.quantized(tmp_path / "llava-v1-tiny", precision)
    engine = load_engine(folder, slots=1, conv_mode=MODE)
    assert engine.info.precision == precision
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = torch.float32
    for parameter in model.parameters():
        if parameter.dtype is torch.float16:
            parameter.data = parameter.data.float()
    native = Native(model, AutoProcessor.from_pretrained(folder, backend="pil"))
    for messages in QUESTIONS:
        given = native.inputs(messages)
        out = model.generate(**given, max_new_tokens=64, do_sample=False)
        want = out[0, given["input_ids"].shape[1] :].tolist()
        assert answers(engine, [messages]) == [want]


@pytest.mark.parametrize(("made", "precision"), AT_LOAD, indirect=["made"])
def test_quantized_ahead_answers_as_quantized_at_load(made, tmp_path, precision):
    """The tower is in 16 bits ahead and the same at load: its tensors are 16 bits already."""
    at_load = load_engine(made.model, precision=precision, slots=1, conv_mode=MODE)
    ahead = load_engine(made.quantized(tmp_path / "q", precision), slots=1, conv_mode=MODE)
    assert answers(ahead, QUESTIONS) == answers(at_load, QUESTIONS)


def test_a_published_conversion_answers(tmp_path):
    make_converted(tmp_path / "llava-1.5-tiny-hf", PLAIN, tied=True)
    folder = tmp_path / "llava-1.5-tiny-hf"
    tower = make_tower(tmp_path / "clip-tiny", TOWER)
    shutil.copy(tower / "preprocessor_config.json", folder)
    said = answers(load_engine(folder, precision="fp32", slots=1), QUESTIONS)
    assert all(said)
    processing = json.loads((folder / "preprocessor_config.json").read_bytes())
    (folder / "preprocessor_config.json").write_text(json.dumps({**processing, "do_pad": False}))
    unpadded = answers(load_engine(folder, precision="fp32", slots=1), QUESTIONS)
    assert unpadded[0] == said[0]  # a square
    assert unpadded[1] != said[1]


@pytest.fixture(scope="module")
def nf4(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nf4")
    tower = make_tower(folder / "clip-tiny", TOWER)
    return Made(make_llava(folder / "llava-v1-tiny", PLAIN), tower).quantized(folder / "q", "nf4")


def test_another_precision_than_it_was_quantized_to_is_refused(nf4):
    with pytest.raises(UsageError, match="quantized to nf4 ahead of time, got int8"):
        load_engine(nf4, precision="int8")


def test_another_way_of_quantizing_is_refused(nf4, tmp_path):
    folder = shutil.copytree(nf4, tmp_path / "q")
    config = json.loads((folder / "config.json").read_bytes())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="weights quantized by awq") as refused:
        load_engine(folder)
    assert "--runtime vllm" in refused.value.hint


def test_a_tower_has_no_place_beside_one_inside(nf4):
    with pytest.raises(UsageError, match="includes its vision tower"):
        load_engine(nf4, vision_tower=nf4)
