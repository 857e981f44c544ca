"""What loads, what is refused, and with which error."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pack.checkpoint.model import read_checkpoint
from llava_pack.engine.loading.load import load_engine, pick_device
from llava_pack.engine.loading.options import Options
from llava_pack.engine.port import Delta, Finished, Message, Picture, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import CheckpointError, PreflightError, UsageError
from tests.support.checkpoints import TinyLlava, TinyTower, make_llava, make_tower

pytestmark = pytest.mark.engine
SPEC = TinyLlava(hidden=64, inner=128)
PICTURE = Picture(5, 3, bytes(range(45)))


def make(folder: Path, spec: TinyLlava = SPEC) -> Path:
    make_tower(folder / "clip-tiny", spec.tower)
    return make_llava(folder / "llava-v1-tiny", spec)


def answer(model_dir: Path, precision: str = "fp32", **options) -> list[int]:
    engine = load_engine(model_dir, precision=precision, slots=1, **options)
    asked = (Message("user", (PICTURE, "what is this?")),)
    engine.submit(Request(request_id="a", messages=asked, sampling=Sampling(max_tokens=16)))
    events = []
    while not engine.idle:
        events += engine.step()
    assert isinstance(events[-1], Finished), events[-1]
    return [token for event in events if isinstance(event, Delta) for token in event.token_ids]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Path, list[int]]:
    model_dir = make(tmp_path_factory.mktemp("plain"))
    return model_dir, answer(model_dir)


def test_safetensors_and_pickles_answer_alike(plain, tmp_path):
    assert answer(make(tmp_path, replace(SPEC, weights="safetensors"))) == plain[1]


def test_old_rotary_tables_are_left_out(plain, tmp_path):
    assert answer(make(tmp_path, replace(SPEC, rotary_tables=True))) == plain[1]


def test_one_shard_or_five(plain, tmp_path):
    assert answer(make(tmp_path, replace(SPEC, shards=5))) == plain[1]


def test_the_tower_may_be_elsewhere(plain, tmp_path):
    model_dir = shutil.copytree(plain[0], tmp_path / "llava-v1-tiny")
    elsewhere = shutil.copytree(plain[0].parent / "clip-tiny", tmp_path / "tower" / "mine")
    assert answer(model_dir, vision_tower=elsewhere) == plain[1]


def test_a_chat_template_beside_the_model_is_never_run(plain, tmp_path):
    """CVE-2026-5760: a template of a checkpoint is a program; the prompt is made by our own."""
    model_dir, mark = make(tmp_path / "model"), tmp_path / "ran"
    called = "cycler.__init__.__globals__.os.mkdir"
    hostile = f"{{{{ {called}({str(mark)!r}) }}}}{{{{ raise_exception('run') }}}}"
    (model_dir / "chat_template.jinja").write_text(hostile)
    (model_dir / "chat_template.json").write_text(json.dumps({"chat_template": hostile}))
    settings = model_dir / "tokenizer_config.json"
    told = json.loads(settings.read_bytes()) if settings.exists() else {}
    settings.write_text(json.dumps({**told, "chat_template": hostile}))
    assert answer(model_dir) == plain[1]
    assert not mark.exists()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "nf4"])
def test_every_precision_answers(plain, precision):
    assert len(answer(plain[0], precision)) > 0


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, projector="linear"),
        replace(SPEC, mistral=True, groups=2, changes={"sliding_window": 16}),
        replace(SPEC, groups=1),
        replace(SPEC, vision_inside=True),
        replace(SPEC, changes={"rope_theta": 50000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    ],
    ids=["linear projector", "mistral", "one group", "own tower", "rope"],
)  # fmt: skip
def test_variants_answer_in_their_own_way(plain, tmp_path, spec):
    said = answer(make(tmp_path, spec))
    assert said
    assert said != plain[1]


def test_own_vision_tensors_win_only_where_the_config_says_so(plain, tmp_path):
    spec = replace(SPEC, vision_inside=True, tower=TinyTower(seed=5))
    trained = make(tmp_path / "a", spec)
    inside = answer(trained)
    assert answer(trained, tower="stock") != inside
    silent = make(tmp_path / "b", replace(spec, changes={"unfreeze_mm_vision_tower": False}))
    with pytest.raises(CheckpointError, match="vision tensors inside are others"):
        answer(silent)
    assert answer(silent, tower="packed") == inside
    assert answer(silent, tower="stock") != inside


def test_nothing_quantized_but_the_language_models_linears(plain):
    from bitsandbytes.nn import Linear4bit
    from torch import nn

    network = load_engine(plain[0], precision="nf4", slots=1)._model._network
    linears = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear)}
    packed = {name for name, module in linears.items() if isinstance(module, Linear4bit)}
    assert packed == {n for n in linears if n.startswith("model.language_model.layers.")}
    assert len(packed) == 7 * SPEC.layers


def test_a_missing_tower_says_where_it_was_looked_for(plain, tmp_path):
    model_dir = shutil.copytree(plain[0], tmp_path / "llava-v1-tiny")
    with pytest.raises(CheckpointError, match="clip-tiny") as caught:
        load_engine(model_dir)
    assert "--vision-tower" in caught.value.hint


def test_a_missing_shard_is_named(plain, tmp_path):
    folder = shutil.copytree(plain[0].parent, tmp_path / "all")
    (folder / "llava-v1-tiny" / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match="pytorch_model-00002-of-00002"):
        load_engine(folder / "llava-v1-tiny")


def test_a_tower_of_another_width_is_refused(plain, tmp_path):
    model_dir = shutil.copytree(plain[0], tmp_path / "llava-v1-tiny")
    tower = make_tower(tmp_path / "wide", TinyTower(width=32, inner=24))
    with pytest.raises(CheckpointError, match="32"):
        read_checkpoint(model_dir, tower)


def test_a_tower_is_no_model(plain):
    with pytest.raises(CheckpointError, match="tower"):
        load_engine(plain[0].parent / "clip-tiny")


def test_no_such_folder(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        load_engine(tmp_path / "absent")


def test_cuda_without_a_gpu_is_said_clearly(plain):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(PreflightError, match="no cuda device was found"):
        load_engine(plain[0], device="cuda")
    assert pick_device("auto", "nf4") == "cpu"


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "int4"},
        {"device": "tpu"},
        {"slots": 0},
        {"context_tokens": 2},
        {"conv_mode": "none_such"},
    ],
)
def test_odd_options_are_refused(options):
    with pytest.raises(UsageError):
        Options(**options)


def test_a_context_longer_than_the_model_knows_is_cut(plain):
    info = load_engine(plain[0], precision="fp32", context_tokens=10**6, slots=1).info
    assert info.context_tokens == 2048


def test_too_little_memory_is_an_error_of_its_own(plain, tmp_path):
    """A child whose address space is limited to little more than the libraries take."""
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from llava_pack.engine import environment\n"
        "environment.prepare()\n"
        "import torch, transformers\n"
        "from llava_pack.engine.loading.load import load_engine\n"
        "from llava_pack.format.errors import SpaceError\n"
        "import llava_pack.engine.loading.assembly\n"
        "torch.zeros(1)\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (128 << 20), used + (128 << 20)))\n"
        "try:\n"
        "    load_engine(Path(sys.argv[1]), precision='fp32', slots=256)\n"
        "except SpaceError as error:\n"
        "    print('space')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, plain[0]], capture_output=True, text=True, check=False
    )
    assert done.stdout == "space\n", done.stderr
