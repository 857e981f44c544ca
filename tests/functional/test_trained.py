"""What training tools leave is served, unmerged and merged, as peft's own merged model answers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_pack.convert.merge import merged_parts
from llava_pack.convert.shards import write_shards
from llava_pack.engine import environment
from llava_pack.engine.loading.load import load_engine
from tests.functional.test_parity import TOLERANCE, logits
from tests.support import trained

pytestmark = pytest.mark.engine
environment.prepare()


def loaded(model: Path, base: Path | None = None, precision: str = "fp32") -> Any:
    return load_engine(model, model_base=base, precision=precision, slots=1, conv_mode=trained.MODE)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return trained.make_base(tmp_path_factory.mktemp("base") / "llava-1.5-tiny-hf")


@pytest.mark.parametrize("tool", trained.adapters())
def test_an_adapter_over_a_converted_llava(tool, base, tmp_path):
    adapter = trained.make_adapter(tool, tmp_path / "tuned")
    want = trained.golden(tool)
    assert np.abs(logits(loaded(adapter, base), trained.CHAT) - want).max() <= TOLERANCE
    assert np.abs(logits(loaded(base), trained.CHAT) - want).max() > 1000 * TOLERANCE
    merged = tmp_path / "llava-merged-hf"
    shutil.copytree(base, merged, ignore=shutil.ignore_patterns("*.safetensors"))
    with merged_parts(adapter, base) as parts:
        write_shards(parts.tensors, merged)
    assert json.loads((merged / "config.json").read_bytes()) == parts.config
    assert np.abs(logits(loaded(merged), trained.CHAT) - want).max() <= TOLERANCE
