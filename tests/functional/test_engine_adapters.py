"""An adapter or a projector with its base: merged in memory as `build --merge` merges, or refused."""

import json
import shutil
from pathlib import Path

import pytest

from llava_pack.convert.merge import merged_parts
from llava_pack.convert.shards import opened, write_shards
from llava_pack.engine import environment
from llava_pack.engine.loading.load import load_engine
from llava_pack.engine.port import Delta, Message, Picture, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import CheckpointError, UsageError
from tests.support.checkpoints import make_tower
from tests.support.families import FAMILIES, Made, make, rgb

pytestmark = pytest.mark.engine
environment.prepare()
SIZE = (50, 31)


def answer(model_dir: Path, model_base: Path | None = None, precision: str = "fp32") -> list[int]:
    engine = load_engine(
        model_dir, model_base=model_base, precision=precision, slots=1, conv_mode="llava_v1"
    )
    asked = (Message("user", (Picture(*SIZE, rgb(SIZE)), "what is this?")),)
    engine.submit(Request(request_id="a", messages=asked, sampling=Sampling(max_tokens=32)))
    events = []
    while not engine.idle:
        events += engine.step()
    return [token for event in events if isinstance(event, Delta) for token in event.token_ids]


@pytest.fixture(scope="module", params=["lora", "projector"])
def made(request, tmp_path_factory) -> Made:
    return make(FAMILIES[request.param], tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_merged_in_memory_answers_as_merged_on_disk(made, tmp_path, precision):
    merged = tmp_path / "llava-v1-merged"
    shutil.copytree(made.base, merged, ignore=shutil.ignore_patterns("*.safetensors"))
    with merged_parts(made.model, made.base) as parts:
        write_shards(parts.tensors, merged)
    shutil.copy(made.model / "config.json", merged)
    assert answer(made.model, made.base, precision) == answer(merged, None, precision)


def test_without_its_base_it_says_what_to_give(made):
    with pytest.raises(CheckpointError, match="base model is missing") as caught:
        load_engine(made.model)
    assert "--model-base" in caught.value.hint


def test_a_bundle_names_the_base_as_a_path(made, tmp_path):
    """So does what an installer writes: relative while packed, absolute where it lands."""
    model = shutil.copytree(made.model, tmp_path / "models" / "llava-v1-lora")
    base = shutil.copytree(made.base, tmp_path / "models" / "vicuna")
    lora = (model / "adapter_config.json").is_file()
    path, key = (
        (model / "adapter_config.json", "base_model_name_or_path")
        if lora
        else (model / "config.json", "_name_or_path")
    )
    want = answer(made.model, made.base)
    for named in ("../vicuna", str(base)):
        path.write_text(json.dumps({**json.loads(path.read_bytes()), key: named}))
        assert answer(model) == want


def test_a_tower_is_no_base(made, tmp_path):
    with pytest.raises(CheckpointError, match="expected a language model or a LLaVA as the base"):
        load_engine(made.model, model_base=make_tower(tmp_path / "clip"))


def test_a_whole_model_takes_no_base(tmp_path):
    whole = make(FAMILIES["v1.5"], tmp_path)
    with pytest.raises(UsageError, match="is a complete model"):
        load_engine(whole.model, model_base=whole.model)


def test_an_adapter_for_a_deeper_base_is_refused(tmp_path):
    made = make(FAMILIES["lora"], tmp_path)
    config = json.loads((made.base / "config.json").read_bytes())
    (made.base / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    weights = made.base / "model.safetensors"
    with opened([weights]) as tensors:
        kept = [one for one in tensors if ".layers.1." not in one.entry.name]
        write_shards(kept, tmp_path)
    shutil.move(tmp_path / "model.safetensors", weights)
    with pytest.raises(CheckpointError, match=r"the base has no model\.layers\.1\."):
        load_engine(made.model, model_base=made.base)
