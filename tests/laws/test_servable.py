"""One answer to "can this be served?": what a laptop accepts the engine loads, and nothing else.

Every value of every small file is changed in turn. Where the folder is still accepted, the engine
loads it and answers; where it is not, the refusal came from `checkpoint/`, which the laptop asks.
"""

import ast
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llava_pack.checkpoint.conformance import model_shapes
from llava_pack.checkpoint.expected import tower_shapes
from llava_pack.checkpoint.keymap import INSIDE, loaded_name
from llava_pack.checkpoint.kind import LANGUAGE_TYPES
from llava_pack.checkpoint.model import read_checkpoint
from llava_pack.checkpoint.network import network
from llava_pack.format.errors import CheckpointError
from tests.support.checkpoints import (
    TinyLlava,
    TinyTower,
    llava_config,
    make_converted,
    make_llava,
    make_tower,
    tower_config,
)
from tests.support.sources import PACKAGE, parsed

ODD = (None, True, 0, -1, 3, 1 << 40, 0.5, "odd", [], [[28, 30]], {}, {"type": "odd"})
TOWER = TinyTower(width=16, inner=24, layers=3)
FOLDERS = {
    "tiles": TinyLlava(tower=TOWER, tiles=True, mistral=True, weights="safetensors", shards=1),
    "converted": TinyLlava(tower=TOWER, tiles=True, weights="safetensors", shards=1),
}


def made(folder: Path, kind: str) -> Path:
    make_tower(folder / "clip-tiny", TOWER)
    make = make_converted if kind == "converted" else make_llava
    return make(folder / "llava-v1.5-tiny", FOLDERS[kind])


def changed(value: Any) -> Iterator[Any]:
    """Yield a parsed file with one thing changed, or taken out."""
    for path in places(value):
        for odd in ODD:
            whole = copy.deepcopy(value)
            holder = whole
            for part in path[:-1]:
                holder = holder[part]
            if holder[path[-1]] != odd:
                holder[path[-1]] = odd
                yield whole
        yield without(value, path)


def places(value: Any) -> Iterator[tuple[str, ...]]:
    for key, inner in value.items():
        yield (key,)
        if isinstance(inner, dict):
            yield from ((key, *rest) for rest in places(inner))


def without(value: Any, path: tuple[str, ...]) -> Any:
    whole = copy.deepcopy(value)
    holder = whole
    for part in path[:-1]:
        holder = holder[part]
    del holder[path[-1]]
    return whole


@pytest.mark.engine
@pytest.mark.parametrize("kind", list(FOLDERS))
def test_what_is_accepted_is_loaded(tmp_path, kind):
    from llava_pack.engine.loading.load import load_engine

    model = made(tmp_path, kind)
    loaded: set[str] = set()
    accepted = refused = 0
    for file in (
        model / "config.json",
        model / "preprocessor_config.json",
        tmp_path / "clip-tiny" / "config.json",
        tmp_path / "clip-tiny" / "preprocessor_config.json",
    ):
        if not file.is_file():
            continue
        before = file.read_text()
        for whole in changed(json.loads(before)):
            file.write_text(json.dumps(whole))
            try:
                checkpoint = read_checkpoint(model)
            except CheckpointError:
                refused += 1
                continue
            accepted += 1
            seen = f"{checkpoint.network}{checkpoint.pictures}"
            if seen not in loaded:
                loaded.add(seen)
                load_engine(
                    model, precision="fp32", slots=1, context_tokens=512, conv_mode="llava_v1"
                )
        file.write_text(before)
    assert min(accepted, refused, len(loaded)) > 5


@pytest.mark.engine
@pytest.mark.parametrize("language", LANGUAGE_TYPES)
@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("projector", ["linear", "mlp1x_gelu", "mlp3x_gelu", "identity"])
def test_every_parameter_of_the_engine_is_promised(language, tower, projector):
    """What the laptop holds against the tensors is what the engine has a place for."""
    from llava_pack.engine.loading.architecture import build

    spec = TinyLlava(tiles=True, projector=projector, tower=TOWER)
    sizes = {"hidden_size": 16} if projector == "identity" else {}
    config = {**llava_config(spec), "architectures": [], "model_type": language, **sizes}
    vision = {**tower_config(TOWER)["vision_config"], "model_type": tower}
    made_of = network(config, vision)
    built = build(made_of, spec.vocabulary).named_parameters()
    inside = {f"{INSIDE}{name}": shape for name, shape in tower_shapes(vision).items()}
    promised = {loaded_name(name): shape for name, shape in (model_shapes(config) | inside).items()}
    last = f"model.vision_tower.encoder.layers.{made_of.tower.layers}."
    promised = {n: shape for n, shape in promised.items() if not n.startswith(last)}
    assert {name: tuple(parameter.shape) for name, parameter in built} == promised


DAMAGE = {
    "engine/loading/prequantized.py": "what is inside a linear quantized ahead, which no header tells",
    "engine/inputs/tokenizers.py": "a tokenizer's file that its own library cannot read",
}
"""Where the engine refuses a checkpoint by itself, and why a laptop cannot know it before."""


def test_the_engine_has_no_refusal_of_its_own():
    refusing = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.is_relative_to(PACKAGE / "engine")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "CheckpointError"
    }
    assert refusing == DAMAGE.keys()
