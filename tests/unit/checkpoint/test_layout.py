import json
import struct

import pytest

from llava_pack.checkpoint.keymap import INSIDE
from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.layout import read_layout, survey
from llava_pack.checkpoint.model import read_checkpoint
from llava_pack.checkpoint.pair import survey_pair
from llava_pack.format.errors import CheckpointError, UsageError
from tests.support import pickles
from tests.support.checkpoints import (
    TinyLlava,
    TinyTower,
    llava_tensors,
    make_converted,
    make_llava,
    make_tower,
    save_tensors,
    tower_tensors,
    write_weights,
)
from tests.support.pickles import Stored

NAME = "llava-v1.5-tiny"


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def fails(folder, **options):
    return [str(d) for d in survey(folder, **options)[1] if d.level == "fail"]


def warns(folder):
    return [str(d) for d in survey(folder)[1] if d.level == "warn"]


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        (NAME, TinyLlava()),
        (NAME, TinyLlava(weights="safetensors", shards=1)),
        (NAME, TinyLlava(weights="safetensors", shards=3)),
        (NAME, TinyLlava(weights="bin", shards=1, rotary_tables=True)),
        (NAME, TinyLlava(projector="linear")),
        (NAME, TinyLlava(projector="mlp3x_gelu", dtype="BF16")),
        (NAME, TinyLlava(projector="identity")),
        (NAME, TinyLlava(groups=2, dtype="F32")),
        (NAME, TinyLlava(vocabulary=384)),
        (NAME, TinyLlava(changes={"tie_word_embeddings": True})),
        (NAME, TinyLlava(changes={"attention_bias": True, "mlp_bias": True})),
        (NAME, TinyLlava(changes={"head_dim": 16})),
        ("llava-v1.6-tiny", TinyLlava(tiles=True, vision_inside=True, weights="safetensors")),
        ("llava-v1.6-mistral-tiny", TinyLlava(tiles=True, vision_inside=True, mistral=True)),
    ],
)
def test_whole_checkpoints_have_no_defects(tmp_path, name, spec):
    layout, defects = survey(make_llava(tmp_path / name, spec))
    assert defects == []
    assert layout.kind is Kind.ORIGINAL
    assert layout.language == ("mistral" if spec.mistral else "llama")
    assert layout.vision_inside == spec.vision_inside
    assert layout.tiles == spec.tiles
    assert layout.vision_tower == spec.tower_id
    tensors = llava_tensors(spec)
    assert layout.entries.keys() == layout.places.keys() == tensors.keys()
    assert layout.size_bytes == sum(len(tensor.data) for tensor in tensors.values())


def test_a_tower(tmp_path):
    layout = read_layout(make_tower(tmp_path / "clip"), expect=Kind.TOWER)
    assert layout.kind is Kind.TOWER


def test_no_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        survey(tmp_path / "none")


def test_an_empty_folder(tmp_path):
    folder = tmp_path / "llava-v1"
    folder.mkdir()
    found = fails(folder)
    assert any("config.json: is missing" in text for text in found)
    assert any("no weights" in text for text in found)


def test_every_defect_in_one_error(tmp_path):
    folder = make_llava(tmp_path / NAME, TinyLlava(shards=3, weights="safetensors"))
    (folder / "model-00001-of-00003.safetensors").unlink()
    second = folder / "model-00002-of-00003.safetensors"
    second.write_bytes(second.read_bytes()[:-5])
    (folder / "modeling.pyc").write_text("import os")
    edit(folder / "config.json", lambda c: c.update(auto_map={"AutoModel": "modeling.X"}))
    edit(
        folder / "model.safetensors.index.json",
        lambda c: c["weight_map"].update({"x": "../../etc/w.safetensors", "y": "lm.bin/../w.bin"}),
    )
    with pytest.raises(CheckpointError) as caught:
        read_layout(folder)
    message = str(caught.value)
    for text in (
        "model-00001-of-00003.safetensors: the shard is missing",
        "model-00002-of-00003.safetensors: its header promises",
        "modeling.pyc: Python code",
        "auto_map names code",
        "'../../etc/w.safetensors'",
        "'lm.bin/../w.bin'",
    ):
        assert text in message
    assert "6 defects: (1) " in message
    assert "(6) " in message
    assert caught.value.exit_code == 13


def test_a_missing_shard_without_an_index(tmp_path):
    folder = make_llava(tmp_path / NAME, TinyLlava(shards=3))
    (folder / "pytorch_model.bin.index.json").unlink()
    assert fails(folder) == []
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    assert fails(folder) == [
        "pytorch_model-00002-of-00003.bin: the shard is missing, expected 3 of them"
    ]


def test_a_shard_that_is_a_broken_link(tmp_path):
    folder = make_llava(tmp_path / NAME)
    shard = folder / "pytorch_model-00001-of-00002.bin"
    shard.unlink()
    shard.symlink_to(tmp_path / "nowhere")
    assert "the shard is missing" in fails(folder)[0]


@pytest.mark.parametrize("weights", ["bin", "safetensors"])
def test_a_truncated_shard(tmp_path, weights):
    folder = make_llava(tmp_path / NAME, TinyLlava(weights=weights))
    shard = min(folder.glob(f"*00002*.{weights}"))
    shard.write_bytes(shard.read_bytes()[:-100])
    (text,) = fails(folder)
    assert text.startswith(shard.name)


def test_an_index_that_names_absent_tensors(tmp_path):
    folder = make_llava(tmp_path / NAME)
    index = folder / "pytorch_model.bin.index.json"
    edit(index, lambda c: c["weight_map"].update(ghost="pytorch_model-00001-of-00002.bin"))
    assert fails(folder) == [
        (
            "pytorch_model.bin.index.json: places ghost in pytorch_model-00001-of-00002.bin, "
            "which lacks them"
        )
    ]


def test_an_index_that_forgets_tensors(tmp_path):
    folder = make_llava(tmp_path / NAME, TinyLlava(rotary_tables=True))
    index = folder / "pytorch_model.bin.index.json"

    def forget(value):
        for name in ("lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"):
            del value["weight_map"][name]

    edit(index, forget)
    assert [text for text in warns(folder) if "does not name" in text] == [
        (
            "pytorch_model.bin.index.json: does not name lm_head.weight of "
            f"{json.loads(index.read_text())['weight_map']['model.norm.weight']}"
        )
    ]


@pytest.mark.parametrize("data", ["{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none(tmp_path, data):
    folder = make_llava(tmp_path / NAME)
    (folder / "pytorch_model.bin.index.json").write_text(data)
    (text,) = fails(folder)
    assert text.startswith("pytorch_model.bin.index.json")


def test_a_config_that_is_no_json(tmp_path):
    folder = make_llava(tmp_path / NAME)
    (folder / "config.json").write_text("{")
    assert any("config.json: not valid JSON" in text for text in fails(folder))


def test_tensors_that_the_config_promises_and_wrong_shapes(tmp_path):
    spec = TinyLlava()
    tensors = llava_tensors(spec)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.norm.weight"] = tensors["lm_head.weight"]
    folder = make_llava(tmp_path / NAME, spec)
    for path in folder.glob("pytorch_model*"):
        path.unlink()
    write_weights(folder, tensors, weights="bin")
    assert fails(folder) == [
        "weights: lack model.layers.1.mlp.up_proj.weight",
        "model.norm.weight: has shape (320, 32), config.json asks for (32,)",
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vocab_size": 321}, "has shape (320, 32), config.json asks for (321, 32)"),
        ({"num_hidden_layers": 3}, "lack model.layers.2.self_attn.q_proj.weight"),
        ({"intermediate_size": 64}, "3 more tensors with a wrong shape"),
        ({"mm_hidden_size": 17}, "config.json asks for (32, 17)"),
        ({"mm_projector_type": "linear"}, "lack model.mm_projector.weight"),
        ({"mm_projector_type": "resampler"}, "expected linear, mlp2x_gelu, or identity"),
        ({"mm_projector_type": "mlp99x_gelu"}, "expected linear, mlp2x_gelu, or identity"),
        (
            {"mm_patch_merge_type": "spatial_unpad", "image_aspect_ratio": "anyres"},
            "lack model.image_newline",
        ),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"hidden_size": "32"}, "hidden_size is '32'"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
    ],
)
def test_a_config_that_does_not_fit_its_weights(tmp_path, changes, expected):
    folder = make_llava(tmp_path / NAME)
    edit(folder / "config.json", lambda c: c.update(changes))
    assert expected in "\n".join(fails(folder))


@pytest.mark.parametrize("code", ["e", "f"], ids=["F16", "F32"])
def test_vision_tensors_inside_are_silent_while_they_are_the_towers_own(tmp_path, code):
    """Whatever type they were saved in: a value that was rounded is still the same."""
    make_tower(tmp_path / "clip-tiny")
    spec = TinyLlava(vision_inside=True, changes={"unfreeze_mm_vision_tower": False})
    folder = make_llava(tmp_path / NAME, spec)
    for path in folder.glob("pytorch_model*"):
        path.unlink()
    tensors = {n: t for n, t in llava_tensors(spec).items() if not n.startswith(INSIDE)}
    for name, stored in tower_tensors(TinyTower()).items():
        if name.startswith("vision_model.") and stored.dtype == "F32":
            values = struct.unpack(f"<{len(stored.data) // 4}f", stored.data)
            data = struct.pack(f"<{len(values)}{code}", *values)
            dtype = "F16" if code == "e" else "F32"
            tensors[f"{INSIDE}{name}"] = Stored(dtype, stored.shape, data)
    write_weights(folder, tensors, weights="bin")
    layout, defects = survey(folder)
    assert (layout.vision_inside, defects, survey_pair(layout)[1]) == (False, [], [])


@pytest.mark.parametrize("choice", ["packed", "stock"])
def test_vision_tensors_inside_that_are_others_are_asked_for(tmp_path, choice):
    make_tower(tmp_path / "clip-tiny", TinyTower(seed=5))
    spec = TinyLlava(vision_inside=True, changes={"unfreeze_mm_vision_tower": False})
    folder = make_llava(tmp_path / NAME, spec)
    layout, _ = survey(folder)
    (defect,) = survey_pair(layout)[1]
    assert defect.level == "fail"
    assert "of the vision tensors inside are others" in defect.message
    assert "--tower packed" in defect.hint
    with pytest.raises(CheckpointError, match="vision tensors inside are others"):
        read_checkpoint(folder)
    chosen = read_checkpoint(folder, choice=choice).model
    assert chosen.vision_inside == (choice == "packed")


def test_a_tower_is_chosen_only_where_one_is_inside(tmp_path):
    make_tower(tmp_path / "clip-tiny")
    folder = make_llava(tmp_path / NAME)
    with pytest.raises(UsageError, match="has no vision tower inside to choose"):
        read_checkpoint(folder, choice="stock")


def test_a_tower_inside_of_another_width(tmp_path):
    spec = TinyLlava(vision_inside=True, tower=TinyTower(width=24))
    tensors = llava_tensors(spec)
    for name in [name for name in tensors if "mm_projector" in name]:
        tensors[name] = llava_tensors(TinyLlava())[name]
    folder = make_llava(tmp_path / NAME, TinyLlava(vision_inside=True))
    for path in folder.glob("pytorch_model*"):
        path.unlink()
    write_weights(folder, tensors, weights="bin")
    assert fails(folder) == []
    make_tower(tmp_path / "clip-tiny")
    _, defects = survey_pair(survey(folder)[0])
    assert "has shape (24,), config.json asks for (16,)" in "\n".join(map(str, defects))


def test_other_weights_are_preferred_as_transformers_prefers_them(tmp_path):
    folder = make_llava(tmp_path / NAME, TinyLlava(weights="safetensors", shards=1))
    (folder / "pytorch_model.bin").write_bytes(b"not looked at")
    layout, defects = survey(folder)
    assert layout.weight_files == ("model.safetensors",)
    assert defects == []


def test_a_malicious_shard_is_one_defect_among_others(tmp_path):
    folder = make_llava(tmp_path / NAME, TinyLlava(shards=2))
    program = b"\x80\x02cos\nsystem\n(" + pickles.text("true") + b"tR."
    pickles.save_program(folder / "pytorch_model-00002-of-00002.bin", program)
    (folder / "x.so").write_text("")
    found = fails(folder)
    assert len(found) == 2
    assert "os.system is not allowed" in found[0]


def test_the_converted_one_where_the_original_is_meant(tmp_path):
    folder = make_converted(tmp_path / "llava-1.5-7b-hf")
    with pytest.raises(CheckpointError) as caught:
        read_layout(folder, expect=Kind.ORIGINAL)
    assert "converted for transformers" in str(caught.value)
    assert "liuhaotian/llava-v1.5-7b" in caught.value.hint
    assert read_layout(folder).kind is Kind.CONVERTED


def test_something_else(tmp_path):
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    save_tensors(
        folder / "model.safetensors", {"x": llava_tensors(TinyLlava())["model.norm.weight"]}
    )
    assert fails(folder) == ["bert: neither config.json nor the tensors are those of a LLaVA model"]
