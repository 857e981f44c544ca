"""What each engine loads, and what it compiles with while it serves.

Of transformers' own layout, which all but llava-pack's own engine read by themselves, LLaVA 1.5,
LLaVA 1.6 and InternVL were run on vLLM and answered as here.

Source: vllm 0.33.0 (model_executor/models/registry.py, model_executor/layers/quantization),
sglang 0.5.23 (srt/models, srt/layers/quantization), lmdeploy 0.18.0 (pytorch/models/module_map.py,
turbomind/supported_models.py), the quantization guides of each.
"""

from collections.abc import Mapping

from llava_pack.format.precision import FACTS, QUANTIZED
from llava_pack.profiles.profile import Loads

_EVERYWHERE = frozenset(
    {
        "Gemma3ForConditionalGeneration",
        "Glm4vForConditionalGeneration",
        "LlavaForConditionalGeneration",
        "LlavaNextForConditionalGeneration",
        "Qwen2VLForConditionalGeneration",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLMoeForConditionalGeneration",
    }
)
_ORIGINAL = frozenset({"LlavaLlamaForCausalLM", "LlavaQwenForCausalLM"})
_WHOLE: Mapping[str, tuple[str, ...]] = {
    name: ("--dtype", facts.dtype) for name, facts in FACTS.items() if name not in QUANTIZED
}
_HALVES = {name: options for name, options in _WHOLE.items() if FACTS[name].bits == 16}


LOADS: Mapping[str, Loads] = {
    "vllm": Loads(
        layouts=("hf",),
        architectures=_EVERYWHERE
        | {
            "Idefics3ForConditionalGeneration",
            "InternVLForConditionalGeneration",
            "LlavaOnevisionForConditionalGeneration",
            "Mistral3ForConditionalGeneration",
            "PaliGemmaForConditionalGeneration",
            "SmolVLMForConditionalGeneration",
        },
        precisions={**_WHOLE, "nf4": ("--dtype", FACTS["nf4"].dtype)},
        quantized=frozenset({"awq", "bitsandbytes", "compressed-tensors", "fp8", "gptq"}),
        needs=frozenset({"cc"}),
    ),
    # The original layout first: of the other, transformers' own code would compute.
    "sglang": Loads(
        layouts=("original", "hf"),
        architectures=_EVERYWHERE
        | _ORIGINAL
        | {"MllamaForConditionalGeneration", "Mistral3ForConditionalGeneration"},
        precisions=_WHOLE,
        quantized=frozenset({"awq", "compressed-tensors", "fp8", "gptq"}),
        needs=frozenset({"nvcc"}),
    ),
    "lmdeploy": Loads(
        layouts=("hf",),
        architectures=_EVERYWHERE
        | {"InternVLForConditionalGeneration", "MllamaForConditionalGeneration"},
        precisions=_HALVES,
        quantized=frozenset({"awq", "gptq"}),
        needs=frozenset({"cc"}),
    ),
}
"""By engine, as `Engine` names it."""
