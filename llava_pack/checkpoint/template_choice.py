"""Which conversation template a checkpoint was trained with.

Source: haotian-liu/LLaVA llava/serve/cli.py (which name takes which template).
"""

from collections.abc import Mapping
from typing import Any


def choose(name: str, config: Mapping[str, Any] | None = None) -> str:
    """Return the template for a checkpoint: by its name as LLaVA does, else by its config.

    A name that says nothing takes `llava_v1`, the template of every Vicuna-based LLaVA since
    1.5, where LLaVA's own code would silently take `llava_v0`.

    >>> choose("llava-v1.5-7b"), choose("llava-v1.6-mistral-7b"), choose("my-finetune")
    ('llava_v1', 'mistral_instruct', 'llava_v1')
    """
    lowered = name.lower()
    by_name = (
        ("llama-2", "llava_llama_2"),
        ("mistral", "mistral_instruct"),
        ("v1.6-34b", "chatml_direct"),
        ("v1", "llava_v1"),
        ("mpt", "mpt"),
        ("v0", "llava_v0"),
    )
    for part, conv_mode in by_name:
        if part in lowered:
            return conv_mode
    model_type = str((config or {}).get("model_type", ""))
    by_type = {"llava_mistral": "mistral_instruct", "llava_mpt": "mpt"}
    return by_type.get(model_type, "llava_v1")
