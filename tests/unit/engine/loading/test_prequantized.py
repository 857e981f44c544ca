"""A linear that was quantized ahead, with a state that is none."""

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from llava_pack.engine.loading.prequantized import _four_bits
from llava_pack.engine.loading.tensor_sources import Placement
from llava_pack.format.errors import CheckpointError


@pytest.mark.parametrize("changes", [{"dtype": "x"}, {"dtype": None}, {"shape": "x"}])
def test_a_state_that_is_none_of_bitsandbytes_is_refused(changes):
    functional = pytest.importorskip("bitsandbytes.functional")
    utils = pytest.importorskip("bitsandbytes.utils")
    codes, state = functional.quantize_4bit(torch.ones(64, 64), quant_type="nf4")
    stats = state.as_dict(packed=True)
    key = next(name for name in stats if name.startswith("quant_state."))
    values = {**utils.unpack_tensor_to_dict(stats[key]), **changes}
    stats[key] = utils.pack_dict_to_tensor(values)
    tensors = {"weight": codes, **{f"weight.{name}": value for name, value in stats.items()}}
    place = Placement(precision="fp32", dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(CheckpointError, match="the state of a quantized linear layer is invalid"):
        _four_bits(nn.Linear(64, 64, bias=False), tensors, place)
