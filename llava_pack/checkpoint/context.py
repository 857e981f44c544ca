"""How long a conversation a model was trained for. Pure.

Source: transformers modeling_rope_utils.py (what each way of scaling positions multiplies);
haotian-liu/LLaVA llava/model/builder.py (`max_sequence_length` is the worker's context).
"""

from collections.abc import Mapping
from typing import Any

_MULTIPLIES = ("linear", "yarn")
"""Ways that were trained for. `dynamic` changes with what is asked, so that it stays at 1."""


def longest_context(config: Mapping[str, Any], positions: int) -> int:
    """Return the tokens that a conversation may have, answer included.

    Args:
        config: in the original keys; its positions are scaled as `network.rotary` accepts.
        positions: `max_position_embeddings`, or its default.

    >>> longest_context({"rope_scaling": {"type": "linear", "factor": 4.0}}, 4096)
    16384
    >>> longest_context({"max_sequence_length": 2048}, 4096)
    2048
    """
    rules = config.get("rope_scaling") or config.get("rope_parameters") or {}
    longest = positions
    if rules.get("rope_type", rules.get("type")) in _MULTIPLIES:
        trained = rules.get("original_max_position_embeddings") or positions
        longest = max(positions, int(trained * rules["factor"]))
    told = config.get("max_sequence_length")
    return min(longest, told) if type(told) is int and told > 0 else longest
