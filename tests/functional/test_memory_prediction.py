"""The predicted memory against what loading takes, on the CPU."""

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pack.checkpoint.footprint import count_parameters, footprint
from llava_pack.checkpoint.layout import read_layout
from llava_pack.checkpoint.pair import survey_pair
from tests.support import tiny_models
from tests.support.checkpoints import TinyLlava, TinyTower, make_llava, make_tower
from tests.support.pickles import Stored

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status is Linux's"),
]
ROOT = Path(__file__).parents[2]
SLOTS, CONTEXT = 1, 256
TOWER = TinyTower(width=256, inner=1024, layers=4, heads=4, picture=56, dtype="F16")
MODEL = TinyLlava(
    hidden=768, inner=2048, layers=12, heads=12, groups=12, vocabulary=8000, tower=TOWER
)
ONEVISION = TinyLlava(
    hidden=768,
    inner=2048,
    layers=12,
    heads=12,
    groups=2,
    vocabulary=16000,
    qwen=True,
    tied=True,
    tiles=True,
    vision_inside=True,
    tower=replace(TOWER, siglip=True),
    tower_id="tiny/siglip-tiny",
)
LOAD = """
import ctypes, json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from llava_pack.engine.loading.load import load_engine
engine = load_engine(
    Path(sys.argv[1]), precision=sys.argv[2], device="cpu",
    slots=int(sys.argv[3]), context_tokens=int(sys.argv[4]), conv_mode="plain",
)
ctypes.CDLL(None).malloc_trim(0)  # what the loader has freed is not what the model takes
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"resident_bytes": int(status["VmRSS"].split()[0]) * 1024}))
"""
NEAR_ONE_TENTH = bytes(byte & 0x83 | 0x24 for byte in range(256))
"""High bytes of small float16 values of either sign, for any random byte."""


def large(folder, spec):
    """Make a model of 100 million parameters in seconds."""

    def quick(self, name, shape, dtype):
        count = 1
        for size in shape:
            count *= size
        data = bytearray(random.Random(name).randbytes(2 * count))
        data[1::2] = bytes(data[1::2]).translate(NEAR_ONE_TENTH)
        return Stored("F16", shape, bytes(data))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models.Values, "tensor", quick)
        make_tower(folder / spec.tower_id.removeprefix("tiny/"), spec.tower)
        return make_llava(folder / "llava-v1.5-100m", spec)


def check(folder, precision):
    layout = read_layout(folder)
    tower, _ = survey_pair(layout)
    predicted = footprint(
        count_parameters(layout.config, tower.config),
        layout.config,
        precision=precision,
        device="cpu",
        context_tokens=CONTEXT,
        slots=SLOTS,
    ).expected_bytes
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), precision, str(SLOTS), str(CONTEXT)],
        check=True,
        capture_output=True,
        text=True,
        timeout=800,
        cwd=ROOT,
    )
    resident = json.loads(done.stdout.splitlines()[-1])["resident_bytes"]
    assert predicted == pytest.approx(resident, rel=0.1)


@pytest.mark.parametrize(("spec", "precision"), [(MODEL, "fp32"), (ONEVISION, "nf4")])
def test_a_model_of_100_million_parameters(tmp_path, spec, precision):
    check(large(tmp_path, spec), precision)


def test_the_demo_model():
    check(ROOT / "bundles" / "demo-model" / "llava-v1-demo", "nf4")
