"""Qwen2 and SigLIP, as LLaVA-NeXT's code leaves them; and LLaVA-Med, as it is published."""

from dataclasses import replace

import pytest

from llava_pack.checkpoint.conformance import model_shapes
from llava_pack.checkpoint.kind import Kind, trains_tower
from llava_pack.checkpoint.layout import survey
from llava_pack.checkpoint.network import ROTARY_NUMBERS, network, rotary
from llava_pack.checkpoint.pair import survey_pair
from llava_pack.checkpoint.vision import tower_rules
from llava_pack.convert.native_form import native_form
from llava_pack.format.errors import CheckpointError
from tests.support.checkpoints import (
    TinyLlava,
    TinyTower,
    llava_config,
    llava_tensors,
    make_llava,
    make_tower,
    preprocessor_config,
    tower_config,
    write_weights,
)
from tests.support.pickles import Stored

TOWER = TinyTower(siglip=True, layers=4, picture=30, patch=7)
SPEC = TinyLlava(
    qwen=True,
    tiles=True,
    vision_inside=True,
    weights="safetensors",
    tower=TOWER,
    tower_id="tiny/siglip-tiny",
)


YARN = {"rope_type": "yarn", "factor": 2.0}


@pytest.mark.parametrize(
    "odd",
    [
        *({name: value} for name in ROTARY_NUMBERS for value in ("x", 0, 1e-320, 1e308, 10**400)),
        {"original_max_position_embeddings": "64"},
        {"truncate": "x"},
        {"partial_rotary_factor": "x"},
        {"partial_rotary_factor": 0.5},
        {"rope_theta": 1},
        {"short_factor": [1.0]},
        {"mrope_section": [1, 2]},
    ],
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_how_positions_are_scaled_is_read_to_the_last_key(key, odd):
    with pytest.raises(CheckpointError, match=next(iter(odd))):
        rotary({key: {**YARN, **odd}})


def test_what_yarn_may_say_is_taken_and_null_is_as_absent():
    more = {
        **dict.fromkeys(ROTARY_NUMBERS, 2),
        "original_max_position_embeddings": 64,
        "truncate": False,
        "partial_rotary_factor": 1.0,
    }
    assert rotary({"rope_scaling": {**YARN, **more}}) == {"rope_scaling": {**YARN, **more}}
    nulls = {name: None for name in more if name != "factor"}
    assert rotary({"rope_scaling": {**YARN, **nulls, "finetuned": True}}) == {"rope_scaling": YARN}


def changed(spec, **changes):
    return replace(spec, changes={**spec.changes, **changes})


@pytest.mark.parametrize("select", [-1, -2, -3, 2, None])
def test_an_originals_siglip_loses_its_last_layer_whatever_is_selected(select):
    config = llava_config(changed(SPEC, mm_vision_select_layer=select))
    rules = tower_rules(config, tower_config(TOWER))
    assert (rules.layers, rules.drops_class, rules.features) == (3, False, 16)


@pytest.mark.parametrize(
    ("flags", "trained"),
    [
        ({"mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model"}, True),
        ({"mm_tunable_parts": "mm_mlp_adapter,mm_language_model"}, False),
        ({"mm_tunable_parts": None}, False),
        ({"unfreeze_mm_vision_tower": True, "mm_tunable_parts": "mm_mlp_adapter"}, True),
    ],
)
def test_parts_that_were_trained_say_whose_vision_counts(tmp_path, flags, trained):
    spec = changed(SPEC, **{"unfreeze_mm_vision_tower": False, **flags})
    assert trains_tower(llava_config(spec)) is trained
    assert survey(make_llava(tmp_path / "llava-v1.5-tiny", spec))[0].vision_inside is trained


def test_a_whole_one_with_its_tower(tmp_path):
    make_tower(tmp_path / "siglip-tiny", TOWER)
    layout, defects = survey(make_llava(tmp_path / "my-llava", SPEC))
    assert (layout.kind, layout.language, layout.tiles) == (Kind.ORIGINAL, "qwen2", True)
    # LLaVA's own code refuses Qwen2 under any name, so it misreads none.
    assert not [defect for defect in defects if "misread" in defect.message]
    assert [defect.level for defect in defects] == ["warn"]  # its template is not known
    assert survey_pair(layout)[1] == []


def test_llava_med_has_a_newline_that_nothing_needs(tmp_path):
    """Trained by the code of 1.6, padded: what transformers' strict loaders stumble over."""
    spec = TinyLlava(
        mistral=True,
        groups=2,
        vision_inside=True,
        weights="safetensors",
        changes={"mm_patch_merge_type": "flat", "sliding_window": None},
    )
    make_tower(tmp_path / "clip-tiny", spec.tower)
    folder = make_llava(tmp_path / "llava-med-v1.5-mistral-tiny", replace(spec, shards=1))
    newline = {"model.image_newline": Stored("F16", (spec.hidden,), bytes(2 * spec.hidden))}
    write_weights(folder, {**llava_tensors(spec), **newline}, weights="safetensors")
    layout, (defect,) = survey(folder)
    assert (layout.language, layout.vision_inside, defect.level) == ("mistral", True, "warn")
    assert defect.message.endswith("left out: model.image_newline")
    assert survey_pair(layout)[1] == []


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (replace(SPEC, projector="mlp3x_gelu"), "supports only 'mlp2x_gelu'"),
        (replace(SPEC, projector="linear"), "'linear', transformers' LLaVA"),
        (changed(SPEC, mm_patch_merge_type="spatial"), "joined as 'spatial', transformers'"),
        (changed(SPEC, mm_patch_merge_type=None), "joined as 'flat', transformers'"),
    ],
)
def test_what_transformers_has_no_place_for_is_refused_with_a_way_out(spec, text):
    parts = llava_config(spec), tower_config(TOWER), preprocessor_config(TOWER)
    network(*parts[:2])  # the engine has a place for it
    with pytest.raises(CheckpointError, match=text) as caught:
        native_form(*parts)
    assert caught.value.hint.startswith("build it without --format hf and --quantize")


@pytest.mark.parametrize(
    ("spec", "model_type"),
    [
        (SPEC, "llava_onevision"),
        (changed(SPEC, image_aspect_ratio="anyres"), "llava_next"),
        (replace(SPEC, tiles=False), "llava"),
    ],
)
def test_the_tower_that_is_written_is_without_what_nothing_reads(spec, model_type):
    form = native_form(llava_config(spec), tower_config(TOWER), preprocessor_config(TOWER))
    assert (form.model_type, form.feature_layer, form.strategy) == (model_type, -1, "full")
    inside = {n for n in llava_tensors(spec) if ".vision_tower." in n}
    prefix = "model.vision_tower.vision_tower."
    assert {f"{prefix}{name}" for name in form.vision_shapes()} == inside
    assert inside.isdisjoint(model_shapes(llava_config(spec)))
