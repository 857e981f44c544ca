"""Laid-out linears multiply as plain ones do, and stand where they can."""

from pathlib import Path
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
    from llava_pack.engine.onednn import OneDnnLinear, has_products, laid_out

    generator = torch.Generator().manual_seed(1)
    plain = nn.Linear(96, 64, bias=bias).requires_grad_(requires_grad=False)
    for parameter in plain.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    given = torch.randn((*shape, 96), generator=generator)
    kind = getattr(torch, dtype)
    if dtype == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert not has_products(kind)
        return
    plain = plain.to(kind)
    for weight in (plain.weight, laid_out(plain.weight)):
        with torch.inference_mode():
            want, got = plain(given.to(kind)), OneDnnLinear(plain, weight)(given.to(kind))
        assert (got.dtype, got.shape) == (kind, (*shape, 64))
        assert (got - want).abs().max() <= nearness * want.abs().max()


def test_one_memory_casts_them_all():
    from llava_pack.engine.onednn import CastBuffer

    scratch = CastBuffer()
    halves = [torch.full(shape, value).half() for shape, value in (((2, 3), 1.5), ((4, 5), 2.5))]
    for half in (*halves, halves[0]):
        cast = scratch.cast(half, torch.float32)
        assert torch.equal(cast, half.float())
    assert cast.data_ptr() == scratch.cast(halves[1], torch.float32).data_ptr()
    assert scratch.cast(halves[0], torch.float16) is halves[0]


@pytest.mark.parametrize("small_bytes", [0, 4 << 20])
def test_of_a_large_model_only_a_part_is_laid_out(checkpoint, monkeypatch, small_bytes):
    from llava_pack.engine import weights

    monkeypatch.setattr(weights, "_SMALL_BYTES", small_bytes)
    layer = network(checkpoint, "fp32").model.language_model.layers[0]
    assert layer.mlp.up_proj._weight.is_mkldnn
    assert layer.self_attn.q_proj._weight.is_mkldnn == bool(small_bytes)


def test_in_32_bits_onednn_computes_tower_and_language_model(checkpoint):
    from llava_pack.engine.onednn import OneDnnLinear

    found = network(checkpoint, "fp32")
    inside = [*found.model.language_model.modules(), *found.model.vision_tower.modules()]
    assert nn.Linear not in {type(module) for module in inside}
    assert type(found.lm_head) is OneDnnLinear
    assert type(found.model.multi_modal_projector.linear_1) is nn.Linear


def test_a_quantized_model_is_as_transformers_makes_it(checkpoint):
    from llava_pack.engine.onednn import OneDnnLinear

    assert OneDnnLinear not in kinds(network(checkpoint, "nf4")).values()


@pytest.fixture
def without_products(monkeypatch):
    from llava_pack.engine import onednn

    def absent(_name: str) -> Any:
        raise AttributeError("no such operator")

    onednn.has_products.cache_clear()
    monkeypatch.setattr(onednn, "_operator", absent)
    yield
    onednn.has_products.cache_clear()


@pytest.mark.usefixtures("without_products")
def test_without_such_products_the_plain_linears_stay(checkpoint):
    from llava_pack.engine.onednn import OneDnnLinear

    assert OneDnnLinear not in kinds(network(checkpoint, "fp32")).values()
