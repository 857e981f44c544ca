"""`--format hf`: what plain transformers makes of it is what the engine makes of the original."""

import json
import random
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from llava_pack.assemble.chat_template import chat_template
from llava_pack.checkpoint.templates import OWN
from llava_pack.convert.native import to_native
from llava_pack.convert.parts import original_parts
from llava_pack.engine import environment
from llava_pack.engine.port import Delta, Message, Picture, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import CheckpointError
from tests.conftest import ROOT
from tests.support.chat_templates import PUBLISHED
from tests.support.checkpoints import TinyLlava, TinyTower, make_llava, make_tower

pytestmark = pytest.mark.engine
environment.prepare()

SPEC = TinyLlava(hidden=128, inner=192, layers=3, groups=2, tower=TinyTower(layers=4))
SIZES = [(28, 28), (40, 20), (20, 40), (33, 1)]


def noise(width: int, height: int) -> Picture:
    data = random.Random(width * height).randbytes(width * height * 3)
    return Picture(width, height, data)


QUESTIONS = [(Message("user", (noise(*size), "what is this?")),) for size in SIZES]
QUESTIONS += [
    (Message("user", ("no picture",)),),
    (
        Message("user", (noise(30, 30), "first")),
        Message("assistant", ("an answer",)),
        Message("user", ("second",)),
    ),
]


def convert(folder: Path, spec: TinyLlava = SPEC) -> tuple[Path, Path]:
    """Return a checkpoint in the original layout, and the same converted."""
    tower_dir = make_tower(folder / "clip-tiny", spec.tower)
    model_dir = make_llava(folder / "llava-v1-tiny", spec)
    out = folder / "llava-v1-tiny-hf"
    out.mkdir()
    template = chat_template("llava_v1", legacy=False)
    with original_parts(model_dir) as parts:
        to_native(parts, tower_dir, out, chat_template=template)
    return model_dir, out


@dataclass
class Native:
    """A converted folder in the hands of plain transformers."""

    model: Any
    processor: Any

    def inputs(self, messages: tuple[Message, ...]) -> Any:
        from PIL import Image

        turns = [{"role": one.role, "content": [_part(p) for p in one.parts]} for one in messages]
        text = self.processor.apply_chat_template(turns, add_generation_prompt=True)
        images = [
            Image.frombytes("RGB", (p.width, p.height), p.rgb)
            for one in messages
            for p in one.pictures
        ]
        return self.processor(images=images or None, text=text, return_tensors="pt")


def _part(part: str | Picture) -> dict[str, str]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}


def load(folder: Path, **options: Any) -> Native:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, report = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **options
    )
    assert not any(report.values()), report
    return Native(model.eval(), AutoProcessor.from_pretrained(folder, backend="pil"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    from llava_pack.engine.loading.load import load_engine

    model_dir, out = convert(tmp_path_factory.mktemp("native"))
    return load_engine(model_dir, precision="fp32", slots=1), load(out)


@pytest.mark.parametrize("messages", QUESTIONS, ids=["square", "wide", "tall", "line", "none", "turns"])  # fmt: skip
def test_same_ids_same_tokens(pair, messages):
    engine, native = pair
    request = Request(request_id="a", messages=messages, sampling=Sampling(max_tokens=64))
    ids = engine._model.write(request).ids
    given = native.inputs(messages)
    image_id = native.model.config.image_token_index
    assert given["input_ids"][0].tolist() == [image_id if i == -200 else i for i in ids]
    engine.submit(request)
    events = []
    while not engine.idle:
        events += engine.step()
    want = [token for event in events if isinstance(event, Delta) for token in event.token_ids]
    out = native.model.generate(**given, max_new_tokens=64, do_sample=False)
    assert out[0, len(ids) :].tolist() == want


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Return converted folders by their chat template: ours, and what publishers ship."""
    out = convert(tmp_path_factory.mktemp("templates"))[1]

    def folder(name: str) -> Path:
        if name != "ours":
            (out / "chat_template.jinja").write_text(PUBLISHED[name])
        return out

    return folder


@pytest.mark.parametrize("name", ["ours", "vicuna", "mistral"])
def test_a_converted_folder_is_asked_by_its_own_chat_template(folder_of, name):
    from llava_pack.engine.loading.load import load_engine

    folder = folder_of(name)
    engine, native = load_engine(folder, precision="fp32", slots=1), load(folder)
    assert engine.info.conv_mode == OWN
    for messages in (*QUESTIONS[:2], *QUESTIONS[-2:]):
        ids = engine._model.write(Request(request_id="a", messages=messages)).ids
        image_id = native.model.config.image_token_index
        expected = native.inputs(messages)["input_ids"][0].tolist()
        assert [image_id if i == -200 else i for i in ids] == expected


def test_pictures_are_prepared_alike(pair):
    engine, native = pair
    for size in SIZES:
        messages = (Message("user", (noise(*size), "x")),)
        want = engine._model._vision.processor.tiles(noise(*size))[0]
        assert (native.inputs(messages)["pixel_values"][0].numpy() == want).all()


def test_logits_are_those_of_the_original_tensors(pair, tmp_path):
    import torch

    from tests.support.reference import reference

    engine, native = pair
    model_dir, _ = convert(tmp_path)
    oracle = reference(model_dir, tmp_path / "clip-tiny", tmp_path / "oracle")
    given = native.inputs(QUESTIONS[1])
    ids = given["input_ids"]
    unseen = torch.where(ids == native.model.config.image_token_index, oracle.image_id, ids)
    with torch.inference_mode():
        mine = native.model(**given).logits
        pixels = given["pixel_values"]
        want = oracle.model(input_ids=unseen, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits  # fmt: skip
    assert (mine[..., : SPEC.vocabulary] - want).abs().max() <= 1e-5
    assert engine.info.image_tokens == 4


@pytest.mark.parametrize("mistral", [False, True])
def test_tiles_load_and_see_the_whole_picture(tmp_path, mistral):
    import torch

    spec = replace(SPEC, tiles=True, vision_inside=True, mistral=mistral)
    _, out = convert(tmp_path, spec)
    native = load(out)
    assert type(native.model).__name__ == "LlavaNextForConditionalGeneration"
    assert native.model.config.text_config.model_type == ("mistral" if mistral else "llama")
    # (height, width): a picture three times as wide as high takes the row of three tiles.
    assert [28, 84] in native.model.config.image_grid_pinpoints
    given = native.inputs((Message("user", (noise(90, 30), "what?")),))
    assert given["pixel_values"].shape[1] == 4
    with torch.inference_mode():
        assert native.model(**given).logits.isfinite().all()


WITHOUT_TORCH = """
import sys
from pathlib import Path
from tests.functional import test_native_format
test_native_format.convert(Path(sys.argv[1]))
print(sorted({"torch", "transformers", "bitsandbytes"} & sys.modules.keys()))
"""


def test_converting_needs_no_torch(tmp_path):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_two_conversions_are_the_same_bytes(tmp_path):
    folders = []
    for name in "ab":
        (tmp_path / name).mkdir()
        folders.append(convert(tmp_path / name)[1])
    first, second = ({p.name: p.read_bytes() for p in one.iterdir()} for one in folders)
    assert first == second


def test_what_is_written_names_no_tower_and_pads_rows(tmp_path):
    _, out = convert(tmp_path)
    config = json.loads((out / "config.json").read_bytes())
    assert not [key for key in config if key.startswith("mm_")]
    assert config["text_config"]["vocab_size"] == 384
    assert config["image_token_index"] == 320
    processing = json.loads((out / "preprocessor_config.json").read_bytes())
    assert processing["do_pad"] is True


def test_new_rows_are_never_likelier_than_unk(pair):
    import torch

    _, native = pair
    with torch.inference_mode():
        logits = native.model(**native.inputs(QUESTIONS[0])).logits
    assert (logits[..., SPEC.vocabulary :] == logits[..., :1]).all()


def test_a_linear_projector_has_no_native_layout(tmp_path):
    with pytest.raises(CheckpointError, match="mlp2x_gelu"):
        convert(tmp_path, replace(SPEC, projector="linear"))
