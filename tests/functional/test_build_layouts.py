"""`build` of every kind of source, from a loopback Hub to a whole bundle."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pack.checkpoint.config import remote_ids
from llava_pack.checkpoint.expected import tower_shapes
from llava_pack.checkpoint.kind import Kind
from llava_pack.checkpoint.layout import read_layout
from tests.functional.test_trained import resaved
from tests.support import trained
from tests.support.checkpoints import (
    TinyLlava,
    TinyTower,
    make_converted,
    make_language,
    make_llava,
    make_lora,
    make_projector,
    make_tower,
    save_tensors,
)
from tests.support.hub import LoopbackHub, RepoSpec

SPEC = TinyLlava(tower=TinyTower(dtype="F16"))
QWEN = TinyLlava(
    qwen=True,
    tied=True,
    tiles=True,
    vision_inside=True,
    weights="safetensors",
    tower=TinyTower(siglip=True, picture=30, patch=7, dtype="F16"),
    tower_id="google/siglip-tiny",
)
SIGLIP = '[vision_tower]\nsource = "hf:tiny/siglip@main"\nname = "siglip-tiny"\n'
HEAD = """name = "tiny"
title = "A tiny LLaVA"
[licence]
id = "Apache-2.0"
url = "https://www.apache.org/licenses/LICENSE-2.0"
[runtime]
cuda = "none"
"""
TOWER = '[vision_tower]\nsource = "hf:tiny/clip@main"\nname = "clip-tiny"\n'
BASE = '[model.base]\nsource = "hf:tiny/base@main"\nname = "vicuna-tiny"\n'
VALUES = """[model.values]
mm_projector_type = "mlp2x_gelu"
mm_vision_select_layer = -2
mm_use_im_patch_token = false
image_aspect_ratio = "pad"
"""


def model(extra: str = "") -> str:
    lines = ["[model]", 'source = "hf:tiny/llava@main"', 'name = "llava-v1-tiny"']
    return "\n".join([*lines, 'conv_mode = "llava_v1"', extra, ""])


@pytest.fixture
def build(llava_pack, tmp_path):
    """Build a recipe from repositories; return the bundle's folder and its manifest."""

    def run(text: str, repos: dict[str, Path], *options: str):
        recipe = tmp_path / "tiny.toml"
        recipe.write_text(HEAD + text)
        specs = {name: RepoSpec(folder=folder) for name, folder in repos.items()}
        out = tmp_path / "bundle"
        with LoopbackHub(specs) as hub:
            done = llava_pack(
                "build", recipe, "--python", "target", "--no-record", "--out", out, "--json", *options,
                env={"HF_ENDPOINT": hub.url},
            )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        for path in (out / "model").rglob("*.json"):
            assert remote_ids(path.read_bytes()) == []
        return out / "model", json.loads((out / "MANIFEST.json").read_bytes())

    return run


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, projector="linear"),
        replace(SPEC, tiles=True, changes={"mm_patch_merge_type": "flat"}),
        replace(QWEN, projector="mlp3x_gelu"),
        replace(QWEN, changes={"mm_patch_merge_type": "spatial"}),
    ],
)
def test_what_has_no_native_layout_is_refused_before_weights_move(llava_pack, tmp_path, spec):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(HEAD + model() + TOWER)
    repos = {"tiny/llava": make_llava(tmp_path / "m", spec)}
    repos["tiny/clip"] = make_tower(tmp_path / "t", spec.tower)
    specs = {name: RepoSpec(folder=folder) for name, folder in repos.items()}
    with LoopbackHub(specs) as hub:
        done = llava_pack(
            "plan", recipe, "--python", "target", "--format", "hf", env={"HF_ENDPOINT": hub.url}
        )
    assert done.returncode == 13, done.stdout + done.stderr
    assert "transformers' LLaVA" in done.stderr
    assert "build it without --format hf and --quantize" in done.stderr
    assert hub.whole(".safetensors", ".bin") == []


@pytest.mark.engine
def test_quantized_the_tower_is_inside_and_the_precision_is_said(build, tmp_path):
    repos = {"tiny/llava": make_llava(tmp_path / "m", SPEC)}
    repos["tiny/clip"] = make_tower(tmp_path / "t", SPEC.tower)
    folder, manifest = build(model() + TOWER, repos, "--quantize", "int8")
    assert [path.name for path in folder.iterdir()] == ["llava-v1-tiny"]
    config = json.loads((folder / "llava-v1-tiny/config.json").read_bytes())
    assert config["quantization_config"]["load_in_8bit"] is True
    assert manifest["serving"]["precision"] == "int8"
    assert manifest["model"]["format"] == "hf"
    assert manifest["rewrites"] == []


def test_an_adapter_is_packed_beside_its_base(build, tmp_path):
    repos = {"tiny/llava": make_lora(tmp_path / "m", SPEC)}
    repos["tiny/base"] = make_language(tmp_path / "b", SPEC)
    repos["tiny/clip"] = make_tower(tmp_path / "t", SPEC.tower)
    folder, manifest = build(model() + BASE + TOWER, repos)
    assert {path.name for path in folder.iterdir()} == {"llava-v1-tiny", "vicuna-tiny", "clip-tiny"}
    adapter = read_layout(folder / "llava-v1-tiny", expect=Kind.LORA)
    assert adapter.base_model == "../vicuna-tiny"
    assert adapter.vision_tower == "../clip-tiny"
    read_layout(folder / "vicuna-tiny", expect=Kind.LANGUAGE)
    assert {rule["installed"] for rule in manifest["rewrites"]} == {
        "{model_root}/clip-tiny",
        "{model_root}/vicuna-tiny",
    }
    assert not list(folder.rglob("*.bin"))


def test_components_merged_are_a_whole_llava(build, tmp_path):
    projector = make_projector(tmp_path / "m", SPEC)
    (projector / "config.json").unlink()
    repos = {"tiny/llava": projector, "tiny/base": make_language(tmp_path / "b", SPEC)}
    repos["tiny/clip"] = make_tower(tmp_path / "t", SPEC.tower)
    folder, manifest = build(model() + VALUES + BASE + TOWER, repos, "--merge")
    packed = read_layout(folder / "llava-v1-tiny", expect=Kind.ORIGINAL)
    assert packed.vision_tower == "../clip-tiny"
    assert packed.config["mm_hidden_size"] == SPEC.tower.width
    assert manifest["model"]["format"] == "original"


def original_base(repos: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    return repos | {
        "tiny/base": make_llava(tmp_path / "base", SPEC),
        "tiny/clip": make_tower(tmp_path / "t", SPEC.tower),
    }


def test_an_adapter_over_a_llava_is_packed_beside_it(build, tmp_path):
    """Both name the tower, and are pointed to the one in the bundle."""
    repos = original_base({"tiny/llava": make_lora(tmp_path / "m", SPEC)}, tmp_path)
    folder, manifest = build(model() + BASE + TOWER, repos)
    assert {path.name for path in folder.iterdir()} == {"llava-v1-tiny", "vicuna-tiny", "clip-tiny"}
    adapter = read_layout(folder / "llava-v1-tiny", expect=Kind.LORA)
    base = read_layout(folder / "vicuna-tiny", expect=Kind.ORIGINAL)
    assert (adapter.base_model, adapter.vision_tower) == ("../vicuna-tiny", "../clip-tiny")
    assert base.vision_tower == "../clip-tiny"
    assert len(manifest["rewrites"]) == 3


@pytest.mark.engine
def test_an_adapter_whose_projector_was_frozen_takes_its_bases(build, tmp_path):
    adapter = make_lora(tmp_path / "m", SPEC)
    save_tensors(adapter / "non_lora_trainables.bin", {})
    repos = original_base({"tiny/llava": adapter}, tmp_path)
    folder, _ = build(model() + BASE + TOWER, repos, "--merge")
    merged = read_layout(folder / "llava-v1-tiny", expect=Kind.ORIGINAL)
    assert "model.mm_projector.2.bias" in merged.entries
    assert {path.name for path in folder.iterdir()} == {"llava-v1-tiny", "clip-tiny"}


@pytest.mark.engine
def test_an_adapter_over_a_converted_llava(build, tmp_path):
    repos = {
        "tiny/llava": trained.make_adapter("modules-to-save", tmp_path / "m"),
        "tiny/base": trained.make_base(tmp_path / "base"),
    }
    recipe = model('format = "hf"') + BASE
    folder, manifest = build(recipe, repos)
    assert {path.name for path in folder.iterdir()} == {"llava-v1-tiny", "vicuna-tiny"}
    assert read_layout(folder / "llava-v1-tiny", expect=Kind.LORA).base_model == "../vicuna-tiny"
    assert manifest["floors"]["memory_bytes"]["nf4"] > 0
    (folder.parent).rename(tmp_path / "unmerged")
    folder, manifest = build(recipe, repos, "--merge")
    assert [path.name for path in folder.iterdir()] == ["llava-v1-tiny"]
    packed = read_layout(folder / "llava-v1-tiny", expect=Kind.CONVERTED)
    assert packed.entries.keys() == read_layout(repos["tiny/base"]).entries.keys()
    assert manifest["rewrites"] == []


def test_a_base_of_the_other_layout_is_refused_before_weights_move(llava_pack, tmp_path):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(HEAD + model() + BASE + TOWER)
    repos = original_base({"tiny/llava": make_lora(tmp_path / "m", SPEC)}, tmp_path)
    repos["tiny/base"] = trained.make_base(tmp_path / "hf")
    specs = {name: RepoSpec(folder=folder) for name, folder in repos.items()}
    with LoopbackHub(specs) as hub:
        done = llava_pack("plan", recipe, "--python", "target", env={"HF_ENDPOINT": hub.url})
    assert done.returncode == 13, done.stdout + done.stderr
    assert "LLaVA converted for transformers" in done.stderr
    assert "format = 'hf'" in done.stderr


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"r": 8}, "does not fit rank 8"),
    ],
)
@pytest.mark.parametrize("weights", ["safetensors", "bin"])
def test_an_adapter_that_cannot_be_added_is_refused_before_anything_large_moves(
    llava_pack, tmp_path, changes, text, weights
):
    adapter = trained.make_adapter("trl", tmp_path / "m", weights)
    settings = adapter / "adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_bytes()), **changes}))
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(HEAD + model('format = "hf"') + BASE)
    folders = {"tiny/llava": adapter, "tiny/base": trained.make_base(tmp_path / "base")}
    specs = {name: RepoSpec(folder=folder) for name, folder in folders.items()}
    with LoopbackHub(specs) as hub:
        done = llava_pack("plan", recipe, "--python", "target", env={"HF_ENDPOINT": hub.url})
    assert done.returncode == 13, done.stdout + done.stderr
    assert text in done.stderr
    assert hub.whole(".safetensors", ".bin") == []


def test_a_converted_model_is_packed_as_it_is(build, tmp_path):
    source = make_converted(tmp_path / "hf", QWEN)
    folder, manifest = build(model('format = "hf"'), {"tiny/llava": source})
    packed = read_layout(folder / "llava-v1-tiny", expect=Kind.CONVERTED)
    assert packed.entries.keys() == read_layout(source).entries.keys()
    assert manifest["model"]["format"] == "hf"
    assert manifest["model"]["vision_tower"] is None
    assert manifest["floors"]["memory_bytes"]["nf4"] > 0


def test_an_original_qwen_is_packed_with_a_slim_siglip_beside_it(build, tmp_path):
    repos = {"tiny/llava": make_llava(tmp_path / "m", QWEN)}
    repos["tiny/siglip"] = make_tower(tmp_path / "t", QWEN.tower)
    folder, manifest = build(model() + SIGLIP, repos)
    packed = read_layout(folder / "llava-v1-tiny", expect=Kind.ORIGINAL)
    assert packed.vision_tower == "../siglip-tiny"
    assert packed.vision_inside
    tower = read_layout(folder / "siglip-tiny", expect=Kind.TOWER)
    assert tower.entries.keys() == tower_shapes(tower.config).keys()
    (rule,) = manifest["rewrites"]
    assert rule["old"] == "google/siglip-tiny"


@pytest.mark.engine
def test_an_original_qwen_in_transformers_own_layout(build, tmp_path):
    repos = {"tiny/llava": make_llava(tmp_path / "m", QWEN)}
    repos["tiny/siglip"] = make_tower(tmp_path / "t", QWEN.tower)
    folder, manifest = build(model() + SIGLIP, repos, "--quantize", "nf4")
    assert [path.name for path in folder.iterdir()] == ["llava-v1-tiny"]
    packed = read_layout(folder / "llava-v1-tiny", expect=Kind.CONVERTED)
    assert packed.config["architectures"] == ["LlavaOnevisionForConditionalGeneration"]
    assert packed.config["vision_config"]["num_hidden_layers"] == QWEN.tower.layers - 1
    assert manifest["rewrites"] == []


@pytest.mark.engine
def test_weights_quantized_by_their_author_are_served_as_they_are(build, tmp_path):
    from transformers import BitsAndBytesConfig

    base = trained.make_base(tmp_path / "base")
    given = BitsAndBytesConfig(load_in_8bit=True)
    source = resaved(base, tmp_path / "llava-v1.5-tuned-hf", quantization_config=given)
    folder, manifest = build(model('format = "hf"'), {"tiny/llava": source})
    assert manifest["serving"]["precision"] == "int8"
    packed = read_layout(folder / "llava-v1-tiny", expect=Kind.CONVERTED)
    assert packed.entries.keys() == read_layout(source).entries.keys()
    assert packed.preprocessor["image_mean"]
