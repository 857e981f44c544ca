"""What is computed of repositories of models for other runtimes; no list of them was seen.

Source: the configurations of InternLM2 1.8B, Qwen2.5 3B and 7B and InternViT 300M as their authors
publish them; 5 GB a shard; parameters as the model cards say them.
"""

from dataclasses import dataclass, field
from typing import Any

from llava_pack.checkpoint.kind import Kind

_TOWER = {
    "hidden_size": 1024,
    "image_size": 448,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-06,
    "norm_type": "layer_norm",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "qk_normalization": False,
    "qkv_bias": True,
}
_ROTARY = {"rope_theta": 1000000.0, "rope_scaling": {"factor": 2.0, "type": "dynamic"}}
_INTERNLM_2B = {
    "bias": False,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 32768,
    "model_type": "internlm2",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "vocab_size": 92553,
    **_ROTARY,
}
_QWEN_3B = {
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "max_position_embeddings": 32768,
    "model_type": "qwen2",
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 2,
    "vocab_size": 151674,
    **_ROTARY,
}
_QWEN_7B = {
    **_QWEN_3B,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
}


def _chat(llm: dict[str, Any], template: str) -> dict[str, Any]:
    """Return config.json in the authors' layout."""
    return {
        "architectures": ["InternVLChatModel"],
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": 448,
        "llm_config": llm,
        "max_dynamic_patch": 12,
        "min_dynamic_patch": 1,
        "model_type": "internvl_chat",
        "ps_version": "v2",
        "select_layer": -1,
        "template": template,
        "use_thumbnail": True,
        "vision_config": _TOWER,
    }


@dataclass(frozen=True, kw_only=True)
class OtherModel:
    """A model of a shipped recipe that llava-pack's own engine does not run.

    Attributes:
        chat: config.json in the authors' layout, of a conversion too.
        kind: what is published.
        billions: of parameters.
        files: without the weights.
    """

    chat: dict[str, Any]
    kind: Kind
    billions: float
    files: tuple[str, ...]
    shards: int
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Return what is in the repository."""
        if self.shards == 1:
            return (*self.files, "model.safetensors")
        shards = (
            f"model-{n:05d}-of-{self.shards:05d}.safetensors" for n in range(1, self.shards + 1)
        )
        return (*self.files, *shards, "model.safetensors.index.json")

    @property
    def published(self) -> dict[str, Any]:
        """Return its config.json."""
        return self.config or self.chat


_SMALL = (
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)
_CODE = ("configuration_internvl_chat.py", "conversation.py", "modeling_internvl_chat.py")
OTHERS: dict[str, OtherModel] = {
    "internvl2-2b": OtherModel(
        chat=_chat(_INTERNLM_2B, "internlm2-chat"),
        kind=Kind.INTERNVL,
        billions=2.21,
        files=(*_SMALL, *_CODE, "tokenizer.model"),
        shards=1,
    ),
    "internvl2_5-4b": OtherModel(
        chat=_chat(_QWEN_3B, "internvl2_5"),
        kind=Kind.INTERNVL,
        billions=3.71,
        files=(*_SMALL, *_CODE, "merges.txt", "vocab.json"),
        shards=2,
    ),
    "internvl3-8b": OtherModel(
        chat=_chat(_QWEN_7B, "internvl2_5"),
        kind=Kind.NATIVE,
        billions=7.94,
        files=(*_SMALL, "chat_template.jinja", "preprocessor_config.json", "tokenizer.json"),
        shards=4,
        config={
            "architectures": ["InternVLForConditionalGeneration"],
            "model_type": "internvl",
            "text_config": _QWEN_7B,
            "vision_config": {"model_type": "internvl_vision"},
        },
    ),
}
"""By the name of the recipe."""
