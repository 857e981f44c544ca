"""Laid-out linears multiply as plain ones do, and stand where they can."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llava_pack.engine import environment
from tests.support.checkpoints import TinyLlava, make_llava, make_tower

pytestmark = pytest.mark.engine
environment.prepare()
torch = pytest.importorskip("torch")
nn = torch.nn
SPEC = TinyLlava(hidden=64, inner=128)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("onednn")
    make_tower(folder / "clip-tiny", SPEC.tower)
    return make_llava(folder / "llava-v1-tiny", SPEC)


def network(checkpoint: Path, precision: str) -> Any:
    from llava_pack.engine.load import load_engine

    return load_engine(checkpoint, precision=precision, slots=1)._model._network


def kinds(network: Any) -> dict[str, type]:
    return {name: type(module) for name, module in network.named_modules() if "proj" in name}


@pytest.mark.parametrize(("dtype", "nearness"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (8, 1), (1, 100)])
def test_products_are_those_of_a_plain_linear(dtype, nearness, bias, shape):
    from llava_pack.engine.onednn import LaidOutLinear

    generator = torch.Generator().manual_seed(1)
    plain = nn.Linear(96, 64, bias=bias).requires_grad_(requires_grad=False)
    for parameter in plain.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    given = torch.randn((*shape, 96), generator=generator)
    kind = getattr(torch, dtype)
    if dtype == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        with pytest.raises(RuntimeError):
            LaidOutLinear(plain.to(kind))
        return
    made = LaidOutLinear(plain.to(kind))
    with torch.inference_mode():
        want, got = plain(given.to(kind)), made(given.to(kind))
    assert (got.dtype, got.shape) == (kind, (*shape, 64))
    assert (got - want).abs().max() <= nearness * want.abs().max()


def test_in_32_bits_tower_and_language_model_are_laid_out(checkpoint):
    from llava_pack.engine.onednn import LaidOutLinear

    found = network(checkpoint, "fp32")
    inside = [*found.model.language_model.modules(), *found.model.vision_tower.modules()]
    assert nn.Linear not in {type(module) for module in inside}
    assert type(found.lm_head) is LaidOutLinear
    assert type(found.model.multi_modal_projector.linear_1) is nn.Linear


def test_a_quantized_model_is_as_transformers_makes_it(checkpoint):
    from llava_pack.engine.onednn import LaidOutLinear

    assert LaidOutLinear not in kinds(network(checkpoint, "nf4")).values()


def test_without_such_products_the_plain_linears_stay(checkpoint, monkeypatch):
    from llava_pack.engine import onednn

    def absent(_name: str) -> Any:
        raise AttributeError("no such operator")

    monkeypatch.setattr(onednn, "_operator", absent)
    assert onednn.LaidOutLinear not in kinds(network(checkpoint, "fp32")).values()


def test_an_output_layer_that_is_the_embedding_table_stays_so(checkpoint):
    from llava_pack.engine import onednn

    table = nn.Embedding(32, 16)
    language, head = nn.Module(), nn.Linear(16, 32, bias=False)
    language.embed_tokens, head.weight = table, table.weight
    model = SimpleNamespace(language_model=language, vision_tower=nn.Linear(16, 16))
    tied = nn.Module()
    tied.lm_head = head
    object.__setattr__(tied, "model", model)
    assert onednn.lay_out(tied) == 0
    assert tied.lm_head.weight is table.weight
