"""What `quantization_config` says, and what a quantized linear's tensors stand for. Pure.

Source: transformers utils/quantization_config.py (BitsAndBytesConfig, names of the methods);
bitsandbytes nn/modules.py and functional.py (QuantState.as_dict: what is saved, under which names).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from llava_pack.checkpoint.defects import shown
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.format.errors import CheckpointError
from llava_pack.format.precision import Quantized

Ahead = Quantized | Literal["fp4"]
PART = re.compile(
    r"(.+)\.(weight\.(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..+)"
    r"|SCB|weight_format)"
)
"""A tensor beside the codes of a quantized linear: the linear's name, and what it is."""
FOREIGN_METHODS = ("awq", "compressed-tensors", "fp8", "gptq")
"""Methods that other runtimes read; llava-pack packs what they wrote as it is."""
_STORAGE, _DTYPE = "uint8", "F16"
_HINT = "use the unquantized checkpoint: it is quantized while loading (--precision nf4 or int8)"


def quantized_ahead(config: Mapping[str, Any]) -> Ahead | None:
    """Return how the linears of a checkpoint were quantized ahead, None where they were not.

    Raises:
        CheckpointError: in a way that is not read here; the hint says what to take instead.

    >>> quantized_ahead({"quantization_config": {"load_in_8bit": True}})
    'int8'
    """
    given = config.get("quantization_config")
    if not given:
        return None
    if not isinstance(given, Mapping):
        raise _refusal(f"quantization_config is {shown(given)}")
    if given.get("quant_method", "bitsandbytes") != "bitsandbytes":
        raise _refusal(f"quantized by {shown(given['quant_method'])}")
    if given.get("load_in_8bit"):
        return "int8"
    kind, storage = (given.get(f"bnb_4bit_quant_{key}") for key in ("type", "storage"))
    if given.get("load_in_4bit") and storage not in (None, _STORAGE):
        raise _refusal(f"quantized by bitsandbytes into {shown(storage)}")
    if given.get("load_in_4bit") and kind in (None, "fp4"):  # None: bitsandbytes' default
        return "fp4"
    if given.get("load_in_4bit") and kind == "nf4":
        return "nf4"
    raise _refusal(f"quantized by bitsandbytes to {shown(kind)}")


def foreign_method(config: Mapping[str, Any]) -> str | None:
    """Return the method of a checkpoint quantized ahead that only other runtimes read, or None.

    >>> foreign_method({"quantization_config": {"quant_method": "awq", "bits": 4}})
    'awq'
    """
    given = config.get("quantization_config")
    method = given.get("quant_method") if isinstance(given, Mapping) else None
    return next((one for one in FOREIGN_METHODS if one == method), None)


def precision_ahead(config: Mapping[str, Any]) -> Quantized | None:
    """Return the precision that a checkpoint quantized ahead is served in; fp4 takes nf4's memory.

    One that only other runtimes read has none of these.

    Raises:
        CheckpointError: it was quantized in a way that is not read here.
    """
    if foreign_method(config):
        return None
    ahead = quantized_ahead(config)
    return "nf4" if ahead == "fp4" else ahead


def unpacked(
    entries: Mapping[str, TensorEntry], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, TensorEntry]:
    """Return a checkpoint's tensors as they were before bitsandbytes quantized them.

    A weight in 4 bits has forgotten its shape; it has the one that is expected where that is of as
    many elements.

    Args:
        entries: by name; shapes, of the same names.
        shapes: what each should have.
    """
    whole: dict[str, TensorEntry] = {}
    for name, entry in entries.items():
        if PART.fullmatch(name):
            continue
        shape, expected = entry.shape, shapes.get(name)
        if f"{name}.absmax" in entries and entry.dtype == "U8":
            if expected and math.prod(shape) == -(-math.prod(expected) // 2):
                shape = expected
            whole[name] = replace(entry, dtype=_DTYPE, shape=shape)
        elif f"{name.removesuffix('weight')}SCB" in entries and entry.dtype == "I8":
            whole[name] = replace(entry, dtype=_DTYPE)
        else:
            whole[name] = entry
    return whole


def _refusal(text: str) -> CheckpointError:
    return CheckpointError(
        f"{text}, expected bitsandbytes in nf4, fp4 or int8", subject="config.json", hint=_HINT
    )
