"""What each engine loads, and what it compiles with while it serves.

Source: vllm 0.33.0 (model_executor/models/registry.py, model_executor/layers/quantization),
sglang 0.5.23 (srt/models, srt/layers/quantization), lmdeploy 0.18.0 (pytorch/models/module_map.py,
turbomind/supported_models.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from llava_pack.format.precision import FACTS, QUANTIZED
from llava_pack.profiles.profile import Layout, Tool

_LLAVA = frozenset({"LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration"})
_ONEVISION = frozenset({"LlavaOnevisionForConditionalGeneration"})
_ORIGINAL = frozenset({"LlavaLlamaForCausalLM", "LlavaQwenForCausalLM"})
_INTERNVL = frozenset({"InternVLForConditionalGeneration"})
_WHOLE: Mapping[str, tuple[str, ...]] = {
    name: ("--dtype", facts.dtype) for name, facts in FACTS.items() if name not in QUANTIZED
}
_HALVES = {name: options for name, options in _WHOLE.items() if FACTS[name].bits == 16}


@dataclass(frozen=True, kw_only=True)
class Loads:
    """The fields of a profile that say which models it is for; see `Profile`."""

    layouts: tuple[Layout, ...]
    architectures: frozenset[str]
    precisions: Mapping[str, tuple[str, ...]]
    quantized: frozenset[str] = frozenset()
    needs: frozenset[Tool] = frozenset()


LOADS: Mapping[str, Loads] = {
    "vllm": Loads(
        layouts=("hf",),
        architectures=_LLAVA | _ONEVISION | _INTERNVL,
        precisions={**_WHOLE, "nf4": ("--dtype", FACTS["nf4"].dtype)},
        quantized=frozenset({"awq", "bitsandbytes", "compressed-tensors", "fp8", "gptq"}),
        needs=frozenset({"cc"}),
    ),
    # The original layout first: of the other, transformers' own code would compute.
    "sglang": Loads(
        layouts=("original", "hf"),
        architectures=_LLAVA | _ORIGINAL,
        precisions=_WHOLE,
        quantized=frozenset({"awq", "fp8", "gptq"}),
        needs=frozenset({"nvcc"}),
    ),
    "lmdeploy": Loads(
        layouts=("hf",),
        architectures=_LLAVA | _INTERNVL,
        precisions=_HALVES,
        quantized=frozenset({"awq"}),
        needs=frozenset({"cc"}),
    ),
}
"""By engine, as `Engine` names it."""
