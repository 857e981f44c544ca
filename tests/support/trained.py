"""What training tools leave behind, in miniature: the same bytes anywhere.

`tests/fixtures/trained` holds what the tools themselves wrote: small JSON files, the names, types
and shapes of the tensors, and the logits of peft's own merged model. Values are made here.
"""

import base64
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.checkpoints import (
    Tensors,
    TinyLlava,
    TinyTower,
    make_converted,
    preprocessor_config,
    save_tensors,
)
from tests.support.families import Chat
from tests.support.tiny_models import Values

FIXTURES = Path(__file__).parents[1] / "fixtures" / "trained"
# Multiples of what bitsandbytes' kernels take, so that every linear can be quantized.
TOWER = TinyTower(width=64, inner=128, picture=56, layers=3)
BASE = TinyLlava(hidden=64, inner=128, groups=2, dtype="F32", tower=TOWER, shards=1)
"""In 32 bits, so that what is merged is not rounded, here or by peft."""
CHAT = Chat((50, 31), ("what is this?",))
MODE = "llava_v1"
TENSORS, LOGITS = "tensors.json", "logits.json"
"""Not of the tool: what its weight file lists, and what peft's merged model answers."""


def adapters() -> list[str]:
    """Return the names of the adapters that were recorded."""
    return sorted(path.parent.name for path in FIXTURES.glob(f"*/{TENSORS}"))


def make_base(folder: Path, spec: TinyLlava = BASE) -> Path:
    """Write the converted LLaVA that the recorded adapters were trained on."""
    make_converted(folder, spec)
    pictures = {**preprocessor_config(spec.tower), "do_pad": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    return folder


def make_adapter(name: str, folder: Path, weights: str = "safetensors") -> Path:
    """Write an adapter as the tool left it, with values of our own; older ones are in `bin`."""
    shutil.copytree(FIXTURES / name, folder, ignore=shutil.ignore_patterns(TENSORS, LOGITS))
    listed = json.loads((FIXTURES / name / TENSORS).read_bytes())
    save_tensors(folder / f"adapter_model.{weights}", valued(listed))
    return folder


def valued(listed: Mapping[str, Any]) -> Tensors:
    """Return tensors of the listed names, types and shapes, always with the same values."""
    values = Values(17)
    return {
        name: values.tensor(name, tuple(shape), dtype) for name, (dtype, shape) in listed.items()
    }


def golden(name: str) -> Any:
    """Return the logits of peft's merged model."""
    recorded = json.loads((FIXTURES / name / LOGITS).read_bytes())
    return np.frombuffer(base64.b64decode(recorded["logits"]), "<f4")
