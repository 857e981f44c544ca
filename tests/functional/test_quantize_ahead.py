"""`--quantize`: bytes and tokens are those of transformers quantizing at load."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_pack.assemble.chat_template import chat_template
from llava_pack.checkpoint.expected import tower_shapes
from llava_pack.checkpoint.safetensors_file import SafetensorsFile
from llava_pack.convert import quantize as ahead
from llava_pack.convert.native import to_native
from llava_pack.convert.native_config import SKIPPED
from llava_pack.convert.parts import original_parts
from llava_pack.convert.quantize import check_reloaded
from llava_pack.engine import environment
from llava_pack.engine.port import Message
from llava_pack.format.errors import IntegrityError, UsageError
from tests.functional.test_native_format import QUESTIONS, SPEC, Native
from tests.support.checkpoints import TinyTower, make_llava, make_tower, tower_config

pytestmark = pytest.mark.engine
environment.prepare()
HALF = replace(SPEC, tower=TinyTower(layers=4, dtype="F16"))
TEMPLATE = chat_template("llava_v1", legacy=False)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("original")
    return make_llava(folder / "llava-v1-tiny", HALF), make_tower(folder / "clip-tiny", HALF.tower)


def quantized(original: tuple[Path, Path], out: Path, precision: Any, **options: Any) -> Path:
    out.mkdir()
    model_dir, tower_dir = original
    with original_parts(model_dir, writable=True) as parts:
        ahead.quantize(
            parts, tower_dir, out, precision=precision, chat_template=TEMPLATE, **options
        )
    return out


@pytest.fixture(scope="module", params=["nf4", "int8"])
def case(request, original, tmp_path_factory):
    """The folder quantized ahead, and the same model quantized by transformers while loading."""
    import torch
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    folder = tmp_path_factory.mktemp(request.param)
    out = quantized(original, folder / "ahead", request.param)
    native = folder / "native"
    native.mkdir()
    with original_parts(original[0]) as parts:
        to_native(parts, original[1], native, chat_template=TEMPLATE)
    nf4 = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.float16,
    }
    kind = nf4 if request.param == "nf4" else {"load_in_8bit": True}
    config = BitsAndBytesConfig(**kind, llm_int8_skip_modules=list(SKIPPED))
    model = AutoModelForImageTextToText.from_pretrained(native, quantization_config=config)
    saved = folder / "saved"
    model.save_pretrained(saved)  # before any forward pass
    return out, saved, model


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found = load_file(folder / "model.safetensors")
    return {name.replace(".vision_model.", "."): value for name, value in found.items()}


def test_every_tensor_is_what_transformers_saves(case):
    import torch

    ahead_of, saved = tensors(case[0]), tensors(case[1])
    assert ahead_of.keys() == saved.keys()
    different = [
        name
        for name, value in saved.items()
        if value.dtype != ahead_of[name].dtype or not torch.equal(value, ahead_of[name])
    ]
    assert different == []


def test_names_are_those_that_other_engines_read(case):
    with SafetensorsFile(case[0] / "model.safetensors") as file:
        names = {entry.name for entry in file.entries}
    assert {name for name in names if name.startswith("vision_tower.")} == {
        f"vision_tower.{name}" for name in tower_shapes(tower_config(HALF.tower))
    }
    others = {name for name in names if not name.startswith("vision_tower.vision_model.")}
    kinds = ("language_model.model.", "language_model.lm_head.", "multi_modal_projector.linear_")
    assert all(name.startswith(kinds) for name in others)


def test_plain_transformers_loads_it_and_answers_alike(case):
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, report = AutoModelForImageTextToText.from_pretrained(case[0], output_loading_info=True)
    assert not any(report.values()), report
    packed = [n for n, m in model.named_modules() if isinstance(m, (Linear4bit, Linear8bitLt))]
    assert len(packed) == 7 * HALF.layers
    assert all(name.startswith("model.language_model.layers.") for name in packed)
    processor = AutoProcessor.from_pretrained(case[0], backend="pil")
    for messages in (QUESTIONS[0], QUESTIONS[1], (Message("user", ("no picture",)),)):
        given = Native(model, processor).inputs(messages)
        if "pixel_values" in given:
            given["pixel_values"] = given["pixel_values"].half()
        mine, want = (
            one.generate(**given, max_new_tokens=64, do_sample=False).tolist()
            for one in (model, case[2])
        )
        assert mine == want


def test_names_that_only_vllm_looks_up_change_nothing_for_transformers(case, tmp_path):
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from transformers import AutoModelForImageTextToText

    def packed(folder: Path) -> set[str]:
        model = AutoModelForImageTextToText.from_pretrained(folder)
        return {n for n, m in model.named_modules() if isinstance(m, (Linear4bit, Linear8bitLt))}

    before = shutil.copytree(case[0], tmp_path / "before")
    config = json.loads((before / "config.json").read_bytes())
    listed = config["quantization_config"]["llm_int8_skip_modules"]
    own = [name for name in listed if name.startswith("model.")]
    assert {name.removeprefix("model.") for name in own} | {"lm_head"} == set(listed) - set(own)
    config["quantization_config"]["llm_int8_skip_modules"] = [*own, "lm_head"]
    (before / "config.json").write_text(json.dumps(config))
    assert packed(before) == packed(case[0])


@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_two_runs_are_the_same_bytes_in_any_number_of_shards(original, tmp_path, precision):
    first, second = (quantized(original, tmp_path / name, precision) for name in "ab")
    digests = [
        {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in one.iterdir()}
        for one in (first, second)
    ]
    assert digests[0] == digests[1]
    whole = tensors(first)
    cut = quantized(original, tmp_path / "c", precision, shard_bytes=400_000)
    shards = sorted(cut.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert all(path.stat().st_size <= 400_000 for path in shards)
    index = json.loads((cut / "model.safetensors.index.json").read_bytes())
    assert {n.replace(".vision_model.", ".") for n in index["weight_map"]} == set(whole)


def test_a_tower_in_32_bits_is_written_in_16(original, tmp_path):
    tower_dir = make_tower(tmp_path / "clip", replace(HALF.tower, dtype="F32"))
    out = quantized((original[0], tower_dir), tmp_path / "out", "nf4")
    vision = [v for n, v in tensors(out).items() if n.startswith("vision_tower.")]
    assert {str(value.dtype) for value in vision} == {"torch.float16"}


def test_a_flipped_byte_is_found_when_it_is_read_again(original, tmp_path, monkeypatch):
    def damage(path, written):
        data = bytearray(path.read_bytes())
        data[-200] ^= 1
        path.write_bytes(data)
        check_reloaded(path, written)

    monkeypatch.setattr(ahead, "check_reloaded", damage)
    with pytest.raises(IntegrityError, match="does not read back"):
        quantized(original, tmp_path / "out", "nf4")


def test_without_torch_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(ahead.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        ahead.need_torch("--quantize nf4")
    assert caught.value.hint.endswith(
        'in a clone of llava-pack: uv tool install --force ".[quantize]"'
    )


MEASURE = """
import ctypes, sys, threading
from pathlib import Path
from llava_pack.convert.parts import original_parts
from llava_pack.convert.quantize import quantize
from llava_pack.format.progress import Silent

def now():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(fields[key].split()[0]) * 1024 for key in ("RssAnon", "RssShmem"))

peak, stop = [0], threading.Event()

def watch():
    while not stop.wait(0.01):
        peak[0] = max(peak[0], now())

threading.Thread(target=watch, daemon=True).start()

class Steps(Silent):
    def __init__(self):
        self.held = []

    def advance(self, count):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is not held
        self.held.append(now())

folder, steps = Path(sys.argv[1]), Steps()
with original_parts(folder / "model", writable=True) as parts:
    quantize(
        parts, folder / "tower", folder / "out",
        precision="nf4", chat_template="", progress=steps,
    )
stop.set()
print(*steps.held, peak[0])
"""


def test_memory_is_that_of_one_tensor_however_deep(tmp_path):
    from benchmarks.quantize import largest_bytes, sparse_checkpoint

    sparse_checkpoint(tmp_path, layers=2)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=800)
    *held, peak = [int(number) for number in done.stdout.split()]
    assert peak < (2 << 30) + largest_bytes()
    # After the embedding table a layer's nine tensors, 104 MB in nf4, then another's. What threads
    # have in hand, and what is left of it in the heap, comes on top of some.
    assert min(held[10:19]) - min(held[1:10]) < 50 << 20, held
