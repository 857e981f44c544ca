"""Converted (`-hf`) checkpoints in the words of the original ones, so that one set of rules fits.

Source: transformers models/llava and llava_next configuration (defaults of text and vision part);
models/llama/configuration_llama.py, models/mistral/configuration_mistral.py.
"""

from collections.abc import Mapping
from typing import Any

from llava_pack.checkpoint.findings import tower_width
from llava_pack.checkpoint.keymap import original_name
from llava_pack.checkpoint.tensors import TensorEntry

_TEXT_DEFAULTS = {
    "llama": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "vocab_size": 32000,
    },
    "mistral": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
    },
}
_VISION_WIDTH = 1024


def as_original(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an original config.json would say of a converted checkpoint.

    >>> as_original({"text_config": {"hidden_size": 64}})["mm_hidden_size"]
    1024
    """
    part = config.get("text_config")
    text = part if isinstance(part, Mapping) else {}
    model_type = str(text.get("model_type", "llama"))
    merged = {**_TEXT_DEFAULTS.get(model_type, _TEXT_DEFAULTS["llama"]), **text}
    width = tower_width({"vision_config": config.get("vision_config") or {}})
    return {
        **merged,
        "model_type": model_type,
        "architectures": [],
        "mm_hidden_size": _VISION_WIDTH if width is None else width,
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad" if _has_newline(config) else "flat",
    }


def original_entries(entries: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Return a converted checkpoint's tensors by their original names."""
    return {original_name(name): entry for name, entry in entries.items()}


def _has_newline(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "llava_next" or any(
        str(name).startswith("LlavaNext") for name in config.get("architectures") or []
    )
