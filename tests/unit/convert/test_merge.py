"""Adapters and projectors put into their base, against the maths in another library."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pack.checkpoint.tensors import FLOATS
from llava_pack.convert.merge import merged_parts, read_adapter
from llava_pack.convert.shards import write_shards
from llava_pack.format.errors import CheckpointError
from tests.support.checkpoints import (
    TinyLlava,
    llava_tensors,
    make_language,
    make_lora,
    make_projector,
)

SPEC = TinyLlava()
QUERY = "model.layers.0.self_attn.q_proj.weight"


def parts_of(adapter: Path, base: Path) -> dict[str, bytes]:
    with merged_parts(adapter, base) as parts:
        return {one.entry.name: bytes(one.read()) for one in parts.tensors}


def test_a_projector_is_put_beside_the_base_without_torch(tmp_path):
    base = make_language(tmp_path / "base", SPEC)
    merged = parts_of(make_projector(tmp_path / "llava-tiny", SPEC), base)
    assert merged == {name: tensor.data for name, tensor in llava_tensors(SPEC).items()}


@pytest.mark.engine
@pytest.mark.parametrize("dtype", ["F16", "F32"])
@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 2}}])
def test_an_adapter_is_added_in_32_bits_and_rounded_once(tmp_path, dtype, changes):
    import numpy as np

    spec = replace(SPEC, dtype=dtype)
    base, lora = make_language(tmp_path / "b", spec), make_lora(tmp_path / "llava-lora", spec)
    config = json.loads((lora / "adapter_config.json").read_text()) | changes
    (lora / "adapter_config.json").write_text(json.dumps(config))
    scale = 8 / math.sqrt(4) if "use_rslora" in changes else 2 / 4 if changes else 8 / 4
    merged = parts_of(lora, base)
    kind = {"F16": np.float16, "F32": np.float32}[dtype]
    given = _tensors(lora)
    weight = np.frombuffer(llava_tensors(spec)[QUERY].data, kind).reshape(32, 32)
    a, b = (np.frombuffer(given[letter], kind).astype(np.float64) for letter in "AB")
    want = weight.astype(np.float64) + scale * (b.reshape(32, 4) @ a.reshape(4, 32))
    got = np.frombuffer(merged[QUERY], kind).reshape(32, 32)
    assert np.abs(got.astype(np.float64) - want).max() <= np.finfo(kind).eps * np.abs(want).max()
    assert not (got == weight).all()
    untouched = "model.embed_tokens.weight"
    assert merged[untouched] == llava_tensors(spec)[untouched].data


@pytest.mark.engine
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_base_of_any_float_keeps_its_type(tmp_path, dtype):
    spec = replace(SPEC, dtype=dtype)
    merged = parts_of(make_lora(tmp_path / "llava-lora"), make_language(tmp_path / "base", spec))
    assert len(merged[QUERY]) == len(llava_tensors(spec)[QUERY].data)


def _tensors(lora: Path) -> dict[str, bytes]:
    from llava_pack.checkpoint.weight_file import open_weights

    file = open_weights(lora / "adapter_model.bin")
    found = {entry.name: bytes(file.read(entry)) for entry in file.entries}
    file.close()
    stem = f"base_model.model.{QUERY.removesuffix('.weight')}"
    return {letter: found[f"{stem}.lora_{letter}.weight"] for letter in "AB"}


@pytest.mark.engine
def test_what_is_merged_is_written_as_any_checkpoint(tmp_path):
    base, lora = make_language(tmp_path / "b", SPEC), make_lora(tmp_path / "llava-lora", SPEC)
    (tmp_path / "out").mkdir()
    with merged_parts(lora, base) as parts:
        paths = write_shards(parts.tensors, tmp_path / "out")
        assert parts.config["mm_projector_type"] == "mlp2x_gelu"
        assert parts.texts == base
    assert [path.name for path in paths] == ["model.safetensors"]


def test_another_base_is_refused(tmp_path):
    base = make_language(tmp_path / "b", replace(SPEC, layers=1))
    lora = make_lora(tmp_path / "llava-lora", SPEC)
    with pytest.raises(CheckpointError, match=r"has no model\.layers\.1"):
        parts_of(lora, base)


def test_a_base_of_another_width_is_refused(tmp_path):
    base = make_language(tmp_path / "b", replace(SPEC, hidden=64))
    with pytest.raises(CheckpointError, match="the adapter expects"):
        parts_of(make_lora(tmp_path / "llava-lora", SPEC), base)


@pytest.mark.parametrize(
    "changes",
    [
        {"fan_in_fan_out": True},
        {"init_lora_weights": "pissa_niter_4"},
        {"peft_type": "IA3"},
        {"r": 0},
        {"lora_alpha": "x"},
    ],
)
def test_maths_that_is_not_known_is_refused(changes):
    with pytest.raises(CheckpointError):
        read_adapter({"r": 4, "lora_alpha": 8} | changes)
