"""What a server would refuse, `plan` refuses on the laptop: same words, and no weights fetched."""

import json
from dataclasses import replace

import pytest

from llava_pack.checkpoint.model import read_checkpoint
from llava_pack.format.errors import CheckpointError
from tests.functional.test_build_layouts import HEAD, TOWER, model
from tests.support.checkpoints import (
    TinyLlava,
    TinyTower,
    llava_tensors,
    make_llava,
    make_tower,
    write_weights,
)
from tests.support.hub import LoopbackHub, RepoSpec
from tests.support.pickles import Stored

SPEC = TinyLlava(weights="safetensors", shards=1, tower=TinyTower(width=16))
CONFIGS = {
    "another language model": {"architectures": ["LlavaGemmaForCausalLM"], "model_type": "gemma"},
    "a resampler": {"mm_projector_type": "resampler"},
    "features pooled": {"mm_resampler_type": "spatial_pool"},
    "pictures cropped and split": {"image_aspect_ratio": "crop_split"},
    "tiles merged otherwise": {
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[28, 56]],
        "mm_patch_merge_type": "spatial_maxpool2x2",
    },
    "a layer that the tower has not": {"mm_vision_select_layer": -9},
    "words around pictures without rows": {"mm_use_im_start_end": True},
}


def refused_by_the_engine(folder) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(folder)
    return caught.value.message


@pytest.fixture
def planned(llava_pack, tmp_path):
    """Plan a bundle of two folders on a Hub; return what was said and what was fetched."""

    def run(folder, tower):
        recipe = tmp_path / "tiny.toml"
        recipe.write_text(HEAD + model() + TOWER)
        specs = {"tiny/llava": RepoSpec(folder=folder), "tiny/clip": RepoSpec(folder=tower)}
        with LoopbackHub(specs) as hub:
            done = llava_pack("plan", recipe, "--python", "target", env={"HF_ENDPOINT": hub.url})
        return done, hub.whole(".safetensors", ".bin")

    return run


def checkpoint(tmp_path, **changes):
    folder = make_llava(tmp_path / "llava-v1-tiny", SPEC)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder, make_tower(tmp_path / "clip-tiny", SPEC.tower)


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=list(CONFIGS))
def test_what_a_configuration_says(planned, tmp_path, changes):
    folder, tower = checkpoint(tmp_path, **changes)
    done, fetched = planned(folder, tower)
    assert done.returncode == 13, done.stderr
    assert refused_by_the_engine(folder) in done.stderr
    assert fetched == []


@pytest.mark.parametrize(
    "tensor",
    [None, Stored("F16", (3,), bytes(6)), Stored("I8", (32,), bytes(32))],
    ids=["is missing", "has another shape", "has no floats"],
)
@pytest.mark.parametrize("weights", ["safetensors", "bin"])
def test_what_a_weight_file_holds(planned, tmp_path, tensor, weights):
    folder, tower = checkpoint(tmp_path)
    (folder / "model.safetensors").unlink()
    tensors = llava_tensors(SPEC)
    if tensor is None:
        del tensors["model.norm.weight"]
    else:
        tensors["model.norm.weight"] = tensor
    write_weights(folder, tensors, weights=weights)
    done, fetched = planned(folder, tower)
    assert done.returncode == 13, done.stderr
    assert refused_by_the_engine(folder) in done.stderr
    assert fetched == []


def test_a_tower_inside_of_another_shape(planned, tmp_path):
    folder, tower = checkpoint(tmp_path, unfreeze_mm_vision_tower=True)
    spec = replace(SPEC, vision_inside=True)
    tensors = llava_tensors(spec)
    name = next(one for one in tensors if one.endswith("layers.0.mlp.fc1.bias"))
    tensors[name] = Stored("F16", (3,), bytes(6))
    write_weights(folder, tensors, weights="safetensors")
    done, fetched = planned(folder, tower)
    assert done.returncode == 13, done.stderr
    assert refused_by_the_engine(folder) in done.stderr
    assert fetched == []


def test_what_nothing_needs_is_named(planned, tmp_path):
    folder, tower = checkpoint(tmp_path)
    extra = {"model.image_newline": Stored("F16", (32,), bytes(64))}
    write_weights(folder, llava_tensors(SPEC) | extra, weights="safetensors")
    done, _ = planned(folder, tower)
    assert done.returncode == 0, done.stderr
    assert "1 tensors that nothing needs, which are left out: model.image_newline" in done.stderr
