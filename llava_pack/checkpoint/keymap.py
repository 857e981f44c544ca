"""Tensor names of the original layout, and what transformers calls the same tensors.

Source: haotian-liu/LLaVA llava/model/llava_arch.py (module names); transformers 5
models/llava/modeling_llava.py (in-memory names); convert_llava_weights_to_hf.py in the
transformers repository (names of the older `-hf` folders, which vLLM and SGLang still read).
"""

import re

_PART = r"weight(?:\..+)?|bias|SCB|weight_format"
"""What a linear consists of, also one that bitsandbytes has quantized."""
_PROJECTOR = re.compile(rf"mm_projector\.(?:(\d+)\.)?({_PART})")
_LINEAR = re.compile(rf"multi_modal_projector\.(?:linear_(\d+)\.)?({_PART})")
_NOT_WEIGHTS = (".rotary_emb.inv_freq", ".embeddings.position_ids")
_FLAT_TOWER = re.compile(r"(?:embeddings|encoder|pre_layrnorm|post_layernorm)\.")
_TOWER_PREFIX = "vision_tower.vision_tower."
INSIDE = f"model.{_TOWER_PREFIX}"
"""What begins the names of a tower's tensors inside a checkpoint."""


def plain_name(name: str) -> str:
    """Return a tensor's name without what training wrappers put in front of it.

    >>> plain_name("base_model.model.model.mm_projector.0.weight")
    'model.mm_projector.0.weight'
    """
    name = name.removeprefix("module.").removeprefix("base_model.")
    return (
        name.removeprefix("model.") if name.startswith(("model.model.", "model.lm_head.")) else name
    )


def original_name(name: str) -> str:
    """Return an original tensor's name from any of the names that transformers has given it.

    Known are the `-hf` folders of every release, with the tower flat or under `vision_model`.

    >>> original_name("language_model.model.norm.weight")
    'model.norm.weight'
    >>> original_name("model.vision_tower.post_layernorm.bias")
    'model.vision_tower.vision_tower.vision_model.post_layernorm.bias'
    >>> original_name("multi_modal_projector.linear_2.weight.absmax")
    'model.mm_projector.2.weight.absmax'
    """
    rest = name.removeprefix("model.")
    if rest.startswith(_TOWER_PREFIX):
        return name
    if match := _LINEAR.fullmatch(rest):
        layer, part = match.groups()
        return f"model.mm_projector.{part if layer is None else _nth(layer, part)}"
    if rest.startswith("vision_tower."):
        inner = rest.removeprefix("vision_tower.").removeprefix("vision_model.")
        return f"{INSIDE}vision_model.{inner}"
    if rest.startswith("language_model.lm_head."):
        return rest.removeprefix("language_model.")
    if rest.startswith("language_model."):
        return f"model.{rest.removeprefix('language_model.').removeprefix('model.')}"
    return "model.image_newline" if rest == "image_newline" else name


def projector_name(name: str) -> str:
    """Return the original name of a tensor of a projector that was saved by itself.

    >>> projector_name("linear_2.bias")
    'model.mm_projector.2.bias'
    >>> projector_name("base_model.model.model.mm_projector.0.weight")
    'model.mm_projector.0.weight'
    """
    plain = plain_name(name)
    if plain.startswith("linear_"):
        plain = f"multi_modal_projector.{plain}"
    if plain.startswith("mm_projector."):
        plain = f"model.{plain}"
    return original_name(plain)


def is_weight(name: str) -> bool:
    """Say whether a tensor is one that a model loads; rotary tables and position ids are computed.

    >>> is_weight("model.layers.0.self_attn.rotary_emb.inv_freq")
    False
    """
    return not name.endswith(_NOT_WEIGHTS)


def loaded_name(name: str) -> str | None:
    """Return what transformers 5 calls an original tensor in memory, None for one to leave out.

    >>> loaded_name("model.mm_projector.2.bias")
    'model.multi_modal_projector.linear_2.bias'
    >>> loaded_name("model.layers.0.mlp.up_proj.weight")
    'model.language_model.layers.0.mlp.up_proj.weight'
    >>> loaded_name("model.vision_tower.vision_tower.vision_model.post_layernorm.bias")
    'model.vision_tower.post_layernorm.bias'
    """
    if not is_weight(name):
        return None
    rest = name.removeprefix("model.")
    if name == rest:
        return name
    if projector := _projector(rest):
        return f"model.multi_modal_projector.{projector}"
    if rest.startswith(_TOWER_PREFIX):
        return tower_loaded_name(rest.removeprefix(_TOWER_PREFIX))
    return name if rest == "image_newline" else f"model.language_model.{rest}"


def tower_loaded_name(name: str) -> str | None:
    """Return what transformers 5 calls a CLIP repository's tensor inside LLaVA, None to leave out.

    >>> tower_loaded_name("vision_model.pre_layrnorm.weight")
    'model.vision_tower.pre_layrnorm.weight'
    >>> tower_loaded_name("text_model.final_layer_norm.bias") is None
    True
    """
    whole = tower_name(name)
    if not whole.startswith("vision_model.") or not is_weight(name):
        return None
    return f"model.vision_tower.{whole.removeprefix('vision_model.')}"


def tower_name(name: str) -> str:
    """Return a CLIP tensor's name as OpenAI published it; transformers 5 saves a tower alone flat.

    >>> tower_name("encoder.layers.0.mlp.fc1.weight")
    'vision_model.encoder.layers.0.mlp.fc1.weight'
    """
    return f"vision_model.{name}" if _FLAT_TOWER.match(name) else name


def exchange_name(name: str) -> str | None:
    """Return an original tensor's name in the `-hf` layout that every engine reads.

    >>> exchange_name("model.norm.weight"), exchange_name("lm_head.weight")
    ('language_model.model.norm.weight', 'language_model.lm_head.weight')
    >>> exchange_name("model.vision_tower.vision_tower.vision_model.post_layernorm.bias")
    'vision_tower.vision_model.post_layernorm.bias'
    """
    if not is_weight(name):
        return None
    rest = name.removeprefix("model.")
    if name == rest:
        return f"language_model.{name}"
    if projector := _projector(rest):
        return f"multi_modal_projector.{projector}"
    if rest.startswith(_TOWER_PREFIX):
        return f"vision_tower.{rest.removeprefix(_TOWER_PREFIX)}"
    return rest if rest == "image_newline" else f"language_model.{name}"


def _projector(rest: str) -> str | None:
    """Return `linear_<n>.<part>` for a layer of the projector; a lone linear has no number."""
    match = _PROJECTOR.fullmatch(rest)
    if match is None:
        return None
    layer, part = match.groups()
    return part if layer is None else f"linear_{int(layer) // 2 + 1}.{part}"


def _nth(layer: str, part: str) -> str:
    return f"{2 * (int(layer) - 1)}.{part}"
