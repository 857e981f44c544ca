"""Models for other runtimes: refused before weights move, and packed in one folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llava_pack.assemble import runtimes
from llava_pack.assemble.layouts import stage_packing
from llava_pack.assemble.model_files import check_nothing_remote
from llava_pack.assemble.model_sources import check_servable
from llava_pack.assemble.packing import choose_packing
from llava_pack.assemble.recipe_template import check_vocabulary
from llava_pack.assemble.serving import source_configs, source_sizes
from llava_pack.assemble.sources import Identified, Listed
from llava_pack.assemble.staging import Staging
from llava_pack.checkpoint.footprint import memory_bytes
from llava_pack.checkpoint.kind import WHOLE, Kind
from llava_pack.checkpoint.layout import read_layout
from llava_pack.checkpoint.safetensors_file import SafetensorsFile
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.directory import DirectorySource
from llava_pack.format.errors import RecipeError, UsageError
from llava_pack.format.precision import QUANTIZED
from llava_pack.format.progress import Silent
from llava_pack.recipe import Recipe
from tests.functional.test_build_layouts import HEAD
from tests.support.checkpoints import make_converted
from tests.support.hub import LoopbackHub, RepoSpec
from tests.unit.checkpoint.test_elsewhere import QWEN, awq, make_native

PART = '[model]\nsource = "hf:tiny/other@main"\nname = "Other-tiny"\nformat = "hf"\n'
OWN = 'conv_mode = "chat_template"\n'


def make_internvl(folder: Path) -> Path:
    tiny: Any = pytest.importorskip("tests.support.internvl")
    files: Any = pytest.importorskip("tests.support.internvl_files")
    tiny.make_internvl(folder, files.TinyInternVl(language="internlm2", weights="bin"))
    return folder


def recipe() -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "title": "tiny",
            "licence": {"id": "MIT", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "model": {
                "source": "hf:tiny/other@main",
                "name": "Other-tiny",
                "format": "hf",
                "conv_mode": "chat_template",
            },
        }
    )


def identified(folder: Path, work: Path) -> Identified:
    listing = DirectorySource(folder=folder, name=folder.name).list()
    listed = Listed(listing=listing, expected=(), cache=Cache(work / "cache"), folder=work / "laid")
    return listed.identify(WHOLE, Silent())


def packed(folder: Path, work: Path) -> tuple[Path, Mapping[str, Any]]:
    """Pack what a folder holds, and return the model's folder with the origins of its files."""
    found = identified(folder, work).fetch(Silent())
    staging = Staging(work / "bundle", Silent())
    stage_packing(staging, choose_packing(recipe()), recipe(), {"model": found})
    check_nothing_remote(staging)
    origins = {entry.path.rpartition("/")[2]: entry.origin for entry in staging.entries}
    return work / "bundle" / "model" / "Other-tiny", origins


def tensors(folder: Path) -> dict[str, tuple[str, bytes]]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with SafetensorsFile(path) as file:
            found |= {one.name: (one.dtype, bytes(file.read(one))) for one in file.entries}
    return found


@pytest.mark.parametrize("kind", ["another class", "quantized"])
def test_it_is_packed_as_it_is(tmp_path, kind):
    source = make_native(tmp_path / "m")
    if kind == "quantized":
        source = awq(make_converted(tmp_path / "q"))
    (source / "video_preprocessor_config.json").write_text("{}")
    (source / "modeling_x.py").write_text("raise SystemExit\n")
    out, _ = packed(source, tmp_path)
    assert tensors(out) == tensors(source)
    for name in ("config.json", "preprocessor_config.json", "video_preprocessor_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert not list(out.glob("*.py"))
    layout = read_layout(out)
    assert layout.kind is Kind.NATIVE
    assert layout.config.get("quantization_config") == (
        {"quant_method": "awq", "bits": 4} if kind == "quantized" else None
    )


@pytest.mark.engine
def test_an_internvl_is_converted_and_says_from_what(tmp_path):
    source = make_internvl(tmp_path / "m")
    out, origins = packed(source, tmp_path)
    layout = read_layout(out)
    assert (layout.kind, layout.config["architectures"]) == (
        Kind.NATIVE, ["InternVLForConditionalGeneration"],
    )  # fmt: skip
    assert {path.suffix for path in out.iterdir()} == {".json", ".jinja", ".safetensors"}
    assert origins["model.safetensors"]["tool"] == "llava-pack convert.to_internvl"
    assert len(origins["model.safetensors"]["inputs"]) == 2
    template = (out / "chat_template.jinja").read_text()
    assert "<IMG_CONTEXT>" in template
    assert "InternVL" in template


@pytest.mark.parametrize("kind", ["another class", "quantized"])
def test_memory_is_that_of_the_files(tmp_path, kind):
    source = make_native(tmp_path / "m")
    if kind == "quantized":
        source = awq(make_converted(tmp_path / "q"))
    found = {"model": identified(source, tmp_path)}
    sized = source_sizes(found, source_configs(found, recipe()))
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    assert sized[0].stored_bytes == size
    by_precision = memory_bytes(*sized, context_tokens=64, slots=1)
    assert min(by_precision.values()) > size


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (make_native, f"own engine does not run {QWEN}"),
        (lambda folder: awq(make_converted(folder)), "does not run weights quantized by awq"),
        pytest.param(
            make_internvl,
            "does not run InternVLForConditionalGeneration",
            marks=pytest.mark.engine,
        ),
    ],
    ids=["another class", "quantized", "internvl"],
)
def test_llava_packs_own_runtime_refuses_it_before_weights_move(llava_pack, tmp_path, make, said):
    path = tmp_path / "tiny.toml"
    path.write_text(HEAD + PART + OWN)
    with LoopbackHub({"tiny/other": RepoSpec(folder=make(tmp_path / "m"))}) as hub:
        done = llava_pack("plan", path, "--python", "target", env={"HF_ENDPOINT": hub.url})
        assert hub.whole(".safetensors", ".bin") == []
    assert done.returncode == 13, done.stdout + done.stderr
    assert said in done.stderr
    assert "--runtime vllm" in done.stderr


def test_a_runtime_that_loads_it_plans_it(tmp_path):
    found = {"model": identified(make_native(tmp_path / "m"), tmp_path)}
    asked = runtimes.with_runtime(recipe(), "vllm")
    layouts = check_servable(found, asked, source_configs(found, asked), Silent())
    assert layouts["model"].kind is Kind.NATIVE


def test_a_template_that_is_not_its_own_is_refused(tmp_path):
    asked = recipe()
    found = {"model": identified(make_native(tmp_path / "m"), tmp_path)}
    check_vocabulary(asked, found)
    model = asked.model.model_copy(update={"conv_mode": "qwen_2"})
    with pytest.raises(RecipeError, match="packed with its own chat template, expected 'chat_"):
        check_vocabulary(asked.model_copy(update={"model": model}), found)


@pytest.mark.parametrize("precision", QUANTIZED)
def test_quantizing_what_is_packed_as_it_is_makes_no_sense(precision):
    with pytest.raises(UsageError) as caught:
        choose_packing(recipe(), precision=precision)
    assert caught.value.subject == f"--quantize {precision}"


def test_inspect_tells_people_what_it_is_and_who_serves_it(llava_pack, tmp_path):
    done = llava_pack("inspect", make_native(tmp_path / "Qwen2.5-VL-tiny"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"class: {QWEN}" in done.stdout
    assert "served_by: vllm, sglang, lmdeploy" in done.stdout
    told = json.loads(llava_pack("inspect", tmp_path / "Qwen2.5-VL-tiny", "--json").stdout)
    assert told["language_model"]["layers"] == 2
