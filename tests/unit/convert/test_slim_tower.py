import json

import pytest

from llava_pack.checkpoint.safetensors_file import SafetensorsFile
from llava_pack.convert.tower import slim_tower
from llava_pack.format.errors import CheckpointError
from tests.support.checkpoints import TinyTower, make_tower, tower_tensors, write_weights


def test_only_the_vision_half_stays(tmp_path):
    source = make_tower(tmp_path / "clip")
    out = tmp_path / "out"
    out.mkdir()
    paths = slim_tower(source, out)
    assert [path.name for path in paths] == [
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
    ]
    for name in ("config.json", "preprocessor_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    tensors = tower_tensors(TinyTower())
    with SafetensorsFile(out / "model.safetensors") as file:
        held = {entry.name: bytes(file.read(entry)) for entry in file.entries}
    assert held == {
        name: item.data
        for name, item in tensors.items()
        if name.startswith("vision_model.") and not name.endswith("position_ids")
    }


def test_of_siglip_neither_text_nor_pooling_head_stays(tmp_path):
    spec = TinyTower(siglip=True)
    source = make_tower(tmp_path / "siglip", spec)
    (tmp_path / "out").mkdir()
    slim_tower(source, tmp_path / "out")
    assert (tmp_path / "out/config.json").read_bytes() == (source / "config.json").read_bytes()
    with SafetensorsFile(tmp_path / "out/model.safetensors") as file:
        held = {entry.name: bytes(file.read(entry)) for entry in file.entries}
    assert held == {
        name: item.data
        for name, item in tower_tensors(spec).items()
        if name.startswith(("vision_model.embeddings.", "vision_model.encoder."))
        and not name.endswith("position_ids")
    } | {
        f"vision_model.post_layernorm.{part}": tower_tensors(spec)[
            f"vision_model.post_layernorm.{part}"
        ].data
        for part in ("weight", "bias")
    }


def test_the_same_bytes_every_time(tmp_path):
    source = make_tower(tmp_path / "clip")
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        runs.append([path.read_bytes() for path in slim_tower(source, tmp_path / name)])
    assert runs[0] == runs[1]


def test_a_tower_that_is_already_safetensors(tmp_path):
    source = make_tower(tmp_path / "clip")
    (source / "pytorch_model.bin").unlink()
    write_weights(source, tower_tensors(TinyTower()), weights="safetensors", shards=2)
    (tmp_path / "out").mkdir()
    assert len(slim_tower(source, tmp_path / "out")) == 3


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_missing_configuration(tmp_path, name):
    source = make_tower(tmp_path / "clip")
    (source / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        slim_tower(source, tmp_path)


def test_a_configuration_far_too_large(tmp_path):
    source = make_tower(tmp_path / "clip")
    (source / "config.json").write_bytes(b" " * (2 << 20))
    with pytest.raises(CheckpointError, match="at most"):
        slim_tower(source, tmp_path)


def test_another_kind_of_model(tmp_path):
    source = make_tower(tmp_path / "clip")
    config = json.loads((source / "config.json").read_text())
    vision = {**config["vision_config"], "model_type": "dinov2"}
    (source / "config.json").write_text(json.dumps({**config, "vision_config": vision}))
    with pytest.raises(CheckpointError, match="'dinov2', expected one of: clip") as caught:
        slim_tower(source, tmp_path)
    assert "CLIP or a SigLIP tower" in caught.value.hint


def test_a_text_model_without_vision(tmp_path):
    source = make_tower(tmp_path / "clip")
    tensors = {n: t for n, t in tower_tensors(TinyTower()).items() if n.startswith("text_model.")}
    write_weights(source, tensors, weights="bin")
    with pytest.raises(CheckpointError, match=r"no vision_model\.\* tensors"):
        slim_tower(source, tmp_path)


def test_no_weights_at_all(tmp_path):
    source = make_tower(tmp_path / "clip")
    (source / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="contains no weights"):
        slim_tower(source, tmp_path)


def test_a_truncated_tower(tmp_path):
    source = make_tower(tmp_path / "clip")
    weights = source / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="truncated"):
        slim_tower(source, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
