"""A LLaVA configuration as transformers' Llava model, built without memory.

Models with tiles get the same network and one parameter more: the engine packs the features of
tiles itself, in LLaVA's own order.

Source: haotian-liu/LLaVA llava/model/multimodal_projector/builder.py (projector kinds) and
multimodal_encoder/clip_encoder.py (which features are taken).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    MistralConfig,
)

from llava_pack.checkpoint.kind import backbone
from llava_pack.engine.batching.kv_cache import ATTENTION
from llava_pack.format.errors import CheckpointError

_TEXT = {"llama": LlamaConfig, "mistral": MistralConfig}
_TEXT_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "attention_bias",
    "mlp_bias",
    "sliding_window",
    "rope_theta",
    "rope_scaling",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
)
_PROJECTORS = ("linear", "mlp2x_gelu")
_SELECT = {"patch": "default", "cls_patch": "full"}


def build(
    config: Mapping[str, Any], tower_config: Mapping[str, Any], vocabulary: int
) -> LlavaForConditionalGeneration:
    """Return the model on the meta device: right shapes, no weights.

    Args:
        config: config.json of a checkpoint in the original layout.
        tower_config: config.json of its tower, a CLIP model's or a CLIP vision model's.
        vocabulary: rows of the embedding table in the weights.

    Raises:
        CheckpointError: a value of a configuration is not supported; the message names it.
    """
    language = backbone(config)
    if language not in _TEXT:
        raise _unsupported("the language model", language, sorted(_TEXT))
    projector = config.get("mm_projector_type", "linear")
    if projector not in _PROJECTORS:
        raise _unsupported("mm_projector_type", projector, _PROJECTORS)
    select = config.get("mm_vision_select_feature", "patch")
    if select not in _SELECT:
        raise _unsupported("mm_vision_select_feature", select, sorted(_SELECT))
    given = {key: config[key] for key in _TEXT_KEYS if config.get(key) is not None}
    try:
        text = _TEXT[language](vocab_size=vocabulary, **given)
        vision = CLIPVisionConfig(**_vision_values(tower_config))
        whole = LlavaConfig(
            text_config=text,
            vision_config=vision,
            image_token_index=vocabulary,
            vision_feature_layer=int(config.get("mm_vision_select_layer", -2)),
            vision_feature_select_strategy=_SELECT[select],
            projector_hidden_act="gelu",
        )
    except (TypeError, ValueError) as error:
        message = f"invalid value: {error}"
        raise CheckpointError(message, subject="config.json") from error
    newline = "unpad" in str(config.get("mm_patch_merge_type", ""))
    return _on_meta(whole, linear=projector == "linear", newline=newline)


def build_native(config: Mapping[str, Any], vocabulary: int) -> LlavaForConditionalGeneration:
    """Return the model of a folder in transformers' own layout, on the meta device.

    Args:
        config: its config.json.
        vocabulary: rows of the embedding table in the weights.

    Raises:
        CheckpointError: a value is not supported.
    """
    tiles = config.get("model_type") == "llava_next"
    values = {key: value for key, value in config.items() if key != "quantization_config"}
    try:
        whole = (LlavaNextConfig if tiles else LlavaConfig)(**values)
    except (TypeError, ValueError, KeyError) as error:
        message = f"invalid value: {error}"
        raise CheckpointError(message, subject="config.json") from error
    for name, part, known in (
        ("the language model", whole.text_config.model_type, sorted(_TEXT)),
        ("the vision tower", whole.vision_config.model_type, ["clip_vision_model"]),
        ("vision_feature_layer", type(whole.vision_feature_layer).__name__, ["int"]),
    ):
        if part not in known:
            raise _unsupported(name, part, known)
    plain = LlavaConfig(
        text_config=whole.text_config,
        vision_config=whole.vision_config,
        image_token_index=vocabulary,
        vision_feature_layer=whole.vision_feature_layer,
        vision_feature_select_strategy=whole.vision_feature_select_strategy,
        projector_hidden_act=whole.projector_hidden_act,
        multimodal_projector_bias=whole.multimodal_projector_bias,
    )
    return _on_meta(plain, linear=False, newline=tiles)


def _on_meta(config: LlavaConfig, *, linear: bool, newline: bool) -> LlavaForConditionalGeneration:
    hidden = config.text_config.hidden_size
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
        if linear:
            sizes = (config.vision_config.hidden_size, hidden)
            model.model.multi_modal_projector = nn.Linear(*sizes)
        if newline:
            model.model.image_newline = nn.Parameter(torch.empty(hidden))
    model.model.language_model.config._attn_implementation = ATTENTION  # noqa: SLF001
    return model.eval()


def computed_buffers(model: LlavaForConditionalGeneration, device: Any) -> None:
    """Make the buffers that no checkpoint holds: rotary frequencies and position numbers."""
    language, tower = model.model.language_model, model.model.vision_tower
    with torch.device(device):
        language.rotary_emb = type(language.rotary_emb)(config=language.config)
        count = tower.embeddings.num_positions
        tower.embeddings.position_ids = torch.arange(count).expand((1, -1))


def _vision_values(tower_config: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(tower_config.get("vision_config") or tower_config)
    return {key: value for key, value in values.items() if key in _vision_keys()}


def _vision_keys() -> frozenset[str]:
    return frozenset(CLIPVisionConfig().to_dict()) - {"model_type", "transformers_version"}


def _unsupported(key: str, value: object, known: Any) -> CheckpointError:
    return CheckpointError(
        f"{key} is {value!r}, expected one of: {', '.join(known)}",
        subject="config.json",
        hint="use the checkpoint in LLaVA's original layout",
    )
