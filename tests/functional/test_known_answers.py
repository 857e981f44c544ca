"""A model broken on purpose is caught by its known answers, and the broken part is named."""

import base64
import json
import shutil
from dataclasses import replace

import pytest
import torch

from llava_pack.engine.inputs import image_processor as images
from llava_pack.engine.known.recording import observe
from llava_pack.engine.loading.load import load_engine
from llava_pack.format.errors import CheckpointError
from llava_pack.format.known_answers import KnownAnswer
from llava_pack.health.grading import judge, worst
from tests.conftest import ROOT

pytestmark = pytest.mark.engine
DEMO = ROOT / "bundles/demo-model"
PICTURES = ROOT / "bundles/known-answers"


def known(name, picture, prompt, *contains):
    png = base64.b64encode((PICTURES / f"{picture}.png").read_bytes()).decode()
    return KnownAnswer(name=name, picture_png=png, prompt=prompt, contains=contains)


KNOWN = (
    known("colour", "blue-square-wide", "What colour is the square?", "blue"),
    known("shape", "red-circle", "What is in the picture?", "red", "circle"),
    known("count", "two-stars-tall", "How many stars are there?", "two|2"),
)


def load(model=DEMO / "llava-v1-demo", tower=DEMO / "clip-demo", precision="fp32", **options):
    return load_engine(
        model, vision_tower=tower, precision=precision, device="cpu", slots=2, **options
    )


def answers(engine):
    return [observe(engine, one)[0] for one in KNOWN]


def judged(engine, recorded, said=None):
    """Return the judgements; `said` is the precision that the engine claims to have."""
    seen = [replace(one, precision=said or one.precision) for one in answers(engine)]
    return [judge(one, recorded, two) for one, two in zip(KNOWN, seen, strict=True)]


@pytest.fixture(scope="module")
def recorded():
    return [
        one for precision in ("fp32", "nf4", "int8") for one in answers(load(precision=precision))
    ]


@pytest.fixture
def copy(tmp_path):
    """A copy of the demo model to be broken."""
    shutil.copytree(DEMO / "llava-v1-demo", tmp_path / "llava-v1-demo")
    shutil.copytree(DEMO / "clip-demo", tmp_path / "clip-demo")
    return tmp_path


@pytest.mark.parametrize("precision", ["fp32", "nf4", "int8"])
def test_a_model_that_is_well_answers_exactly(recorded, precision):
    found = judged(load(precision=precision), recorded)
    assert [(one.level, one.stage) for one in found] == [("exact", "")] * 3


def test_another_precision_than_recorded_is_equivalent(recorded):
    found = judged(load(precision="bf16"), [replace(one, precision="bf16", made_on="elsewhere")
                                            for one in recorded if one.precision == "fp32"])  # fmt: skip
    assert [(one.level, one.stage) for one in found] == [("equivalent", "")] * 3


def test_without_a_recording_the_words_count(recorded):
    engine = load(precision="fp32")
    assert {one.level for one in judged(engine, [])} == {"equivalent"}
    (one,) = (judge(replace(KNOWN[0], contains=("green",)), [], answers(engine)[0]),)
    assert one.level == "broken"


def test_one_flipped_exponent_in_the_projector(recorded):
    engine = load()
    weight = engine._model._network.model.multi_modal_projector.linear_2.weight
    with torch.no_grad():
        bits = weight.view(torch.int32)
        bits[3, 5] ^= 1 << 25  # the third bit of the exponent
    found = judged(engine, recorded)
    assert {one.stage for one in found} == {"projector"}
    assert worst(found) in {"degraded", "broken"}


def test_a_tower_of_another_seed(recorded):
    engine = load()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in engine._model._network.model.vision_tower.parameters():
            weight.add_(torch.randn_like(weight) * weight.std() * 0.3)
    found = judged(engine, recorded)
    assert {one.stage for one in found} == {"vision tower"}


@pytest.mark.parametrize("layers", [4, 6])
def test_a_tower_of_another_size(copy, layers):
    """It does not even load: the weights are those of another tower."""
    path = copy / "clip-demo" / "config.json"
    config = json.loads(path.read_text())
    (config.get("vision_config") or config)["num_hidden_layers"] = layers
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"vision_model|layer"):
        load(copy / "llava-v1-demo", copy / "clip-demo")


def test_features_of_another_layer(recorded):
    engine = load()
    engine._model._network.config.vision_feature_layer = -3
    assert {one.stage for one in judged(engine, recorded)} == {"vision tower"}


def test_a_shuffled_tokenizer(recorded):
    engine = load()
    tokenizer = engine._model._writer.tokenizer
    plain = tokenizer.encode

    def shifted(text, **options):
        return [i if i < 259 else 259 + (i - 258) % 300 for i in plain(text, **options)]

    tokenizer.encode = shifted
    assert {one.stage for one in judged(engine, recorded)} == {"tokenizer"}


def test_a_wrong_template(recorded):
    found = judged(load(conv_mode="mistral_instruct"), recorded)
    assert {one.stage for one in found} == {"template"}


def test_a_wrong_padding_colour(recorded, monkeypatch):
    padded = images.scaled_square
    monkeypatch.setattr(
        images, "scaled_square", lambda image, size, _, way: padded(image, size, (0, 0, 0), way)
    )
    found = judged(load(), recorded)
    assert [one.stage for one in found] == ["picture", "", "picture"]  # the circle is square


def test_a_picture_that_is_cropped_and_not_padded(recorded):
    engine = load()
    vision = engine._model._vision
    rules = replace(vision.processor.rules, pad=False)
    vision.processor = replace(vision.processor, rules=rules)
    found = judged(engine, recorded)
    assert [one.stage for one in found] == ["picture", "", "picture"]  # the circle is square


def test_the_way_of_the_picture_is_cut(recorded):
    engine = load()
    projector = engine._model._network.model.multi_modal_projector
    projector.register_forward_hook(lambda _m, _i, output: torch.zeros_like(output))
    found = judged(engine, recorded)
    assert {one.stage for one in found} == {"projector"}
    assert worst(found) == "broken"


def test_a_language_model_that_was_changed(recorded):
    engine = load()
    layer = engine._model._network.model.language_model.layers[1]
    with torch.no_grad():
        layer.post_attention_layernorm.weight.mul_(1.5)
    found = judged(engine, recorded)
    assert {one.stage for one in found} == {"model"}


@pytest.mark.parametrize(("real", "said"), [("int8", "nf4"), ("fp32", "nf4"), ("nf4", "int8")])
def test_another_precision_than_it_says(recorded, real, said):
    found = judged(load(precision=real), recorded, said=said)
    assert {one.stage for one in found} == {"precision"}
    assert {one.level for one in found} == {"degraded"}
    nearest = {"int8": "int8", "fp32": "fp32", "nf4": "nf4"}[real]
    assert all(f"answers like {nearest}" in one.why for one in found)
