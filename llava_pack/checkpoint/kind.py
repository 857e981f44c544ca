"""What kind of checkpoint a folder or a Hub repository holds, by config and names; never by folder.

Source: haotian-liu/LLaVA llava/model/builder.py (what each kind consists of).
"""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any, Literal, get_args

from llava_pack.checkpoint.config import TOWER_KEYS
from llava_pack.checkpoint.quantized import foreign_method


class Kind(StrEnum):
    """Kinds of checkpoints; the values are what people see."""

    ORIGINAL = "original"
    LORA = "lora"
    PROJECTOR = "projector"
    CONVERTED = "hf"
    NATIVE = "native"
    INTERNVL = "internvl"
    TOWER = "tower"
    LANGUAGE = "language"
    UNKNOWN = "unknown"

    @property
    def description(self) -> str:
        """The kind in a few words."""
        return _TITLES[self]


_TITLES = {
    Kind.ORIGINAL: "LLaVA as its authors publish it",
    Kind.LORA: "LoRA adapter for a LLaVA, unmerged",
    Kind.PROJECTOR: "projector of a LLaVA, without its language model",
    Kind.CONVERTED: "LLaVA converted for transformers (-hf)",
    Kind.NATIVE: "model that transformers has a class for, for other runtimes",
    Kind.INTERNVL: "InternVL as its authors publish it",
    Kind.TOWER: "vision tower",
    Kind.LANGUAGE: "language model without vision",
    Kind.UNKNOWN: "not a checkpoint that llava-pack recognizes",
}
PLAIN = ("llava", "LlavaForConditionalGeneration")
NEXT = ("llava_next", "LlavaNextForConditionalGeneration")
ONEVISION = ("llava_onevision", "LlavaOnevisionForConditionalGeneration")
INTERNVL = ("internvl_chat", "InternVLChatModel")
_CONVERTED_TYPES, _CONVERTED_CLASSES = zip(PLAIN, NEXT, ONEVISION, strict=True)
"""Converted checkpoints by their `model_type`, and by their class."""
_NATIVE_CLASS = "ForConditionalGeneration"
"""How the name of a class ends that writes about pictures. Source: transformers models/auto."""
WHOLE = (Kind.CONVERTED, Kind.NATIVE, Kind.INTERNVL)
"""Kinds that have everything in one folder, tower included."""
STORED = (Kind.NATIVE, Kind.INTERNVL)
"""Those that llava-pack's own engine does not run, and of which no parameters are counted."""
TOWER_TYPES = ("clip", "clip_vision_model", "siglip", "siglip_vision_model")
LANGUAGE_TYPES = ("llama", "mistral", "qwen2")
"""Language models that the engine runs."""
UPSTREAM_LANGUAGES = ("llama", "mistral")
"""Those that LLaVA's own code runs. Source: haotian-liu/LLaVA llava/model/language_model."""
_LANGUAGES = (*LANGUAGE_TYPES, "mpt", "gemma", "gemma2", "phi", "phi3", "qwen3", "mixtral")
"""Language models that are known for what they are."""
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
TRAINABLES = ("non_lora_trainables.safetensors", "non_lora_trainables.bin")
PROJECTORS = ("mm_projector.safetensors", "mm_projector.bin")
_TRAINING_FILES = {"training_args.bin", "optimizer.bin", "scheduler.bin"}


TowerChoice = Literal["packed", "stock"]
"""A vision tower that is inside a checkpoint, or the one beside it."""
TOWER_CHOICES: tuple[TowerChoice, ...] = get_args(TowerChoice)


def classify(
    names: Collection[str], config: Mapping[str, Any], tensors: Collection[str] = ()
) -> Kind:
    """Return the kind of a checkpoint.

    Args:
        names: its files, a Hub list will do.
        config: its config.json, empty where there is none.
        tensors: the names of its tensors, where they are known.

    >>> classify(["config.json"], {"model_type": "clip"})
    <Kind.TOWER: 'tower'>
    """
    if {"adapter_config.json", *ADAPTERS, *TRAINABLES} & set(names):
        return Kind.LORA
    kind = _by_config(config)
    if kind is Kind.ORIGINAL and _is_projector_only(names, tensors):
        return Kind.PROJECTOR
    return _by_tensors(tensors) if kind is Kind.UNKNOWN else kind


def _by_config(config: Mapping[str, Any]) -> Kind:
    classes = {str(name) for name in _list(config.get("architectures"))}
    model_type = config.get("model_type")
    if classes & set(_CONVERTED_CLASSES) or (
        isinstance(config.get("text_config"), Mapping) and model_type in _CONVERTED_TYPES
    ):
        return Kind.NATIVE if foreign_method(config) else Kind.CONVERTED
    if model_type == INTERNVL[0] or INTERNVL[1] in classes:
        return Kind.INTERNVL
    if any(name.endswith(_NATIVE_CLASS) for name in classes) and isinstance(
        config.get("vision_config"), Mapping
    ):
        return Kind.NATIVE
    if any(key in config for key in TOWER_KEYS) or any(
        name.startswith("Llava") and name.endswith("ForCausalLM") for name in classes
    ):
        return Kind.ORIGINAL
    if model_type in TOWER_TYPES:
        return Kind.TOWER
    return Kind.LANGUAGE if model_type in _LANGUAGES else Kind.UNKNOWN


def _by_tensors(tensors: Collection[str]) -> Kind:
    for prefix, kind in (
        ("model.mm_projector.", Kind.ORIGINAL),
        ("multi_modal_projector.", Kind.CONVERTED),
        ("model.multi_modal_projector.", Kind.CONVERTED),
        ("vision_model.", Kind.TOWER),
        ("model.layers.", Kind.LANGUAGE),
    ):
        if any(name.startswith(prefix) for name in tensors):
            return kind
    return Kind.UNKNOWN


def _is_projector_only(names: Collection[str], tensors: Collection[str]) -> bool:
    weights = {name for name in names if name.endswith((".bin", ".safetensors"))}
    if weights & set(PROJECTORS) and weights - _TRAINING_FILES <= set(PROJECTORS):
        return True
    return bool(tensors) and all("mm_projector." in name for name in tensors)


_SHORT = {"qwen": "qwen2"}
"""Source: LLaVA-VL/LLaVA-NeXT language_model/llava_qwen.py (LlavaQwen is over Qwen2)."""


def backbone(config: Mapping[str, Any]) -> str:
    """Return the language model's type: `llama`, `mistral`, or another that is named.

    Released LLaVA configurations say "llava" for Llama; the class name tells the others.

    >>> backbone({"model_type": "llava", "architectures": ["LlavaMistralForCausalLM"]})
    'mistral'
    """
    text = config.get("text_config", config.get("llm_config"))
    if isinstance(text, Mapping):
        return str(text.get("model_type", "llama"))
    for name in _list(config.get("architectures")):
        inner = str(name).removeprefix("Llava").removesuffix("ForCausalLM").lower()
        if str(name).startswith("Llava") and inner:
            return _SHORT.get(inner, inner)
    model_type = str(config.get("model_type", "llama")).removeprefix("llava").strip("_")
    return _SHORT.get(model_type, model_type) or "llama"


def has_tiles(config: Mapping[str, Any]) -> bool:
    """Say whether pictures are cut into tiles (LLaVA-1.6, "anyres").

    >>> has_tiles({"image_aspect_ratio": "anyres"}), has_tiles({"image_aspect_ratio": "pad"})
    (True, False)
    """
    aspect = str(config.get("image_aspect_ratio", ""))
    return aspect.startswith("anyres") or config.get("model_type") in (NEXT[0], ONEVISION[0])


_TUNABLE = "mm_vision_tower"


def trains_tower(config: Mapping[str, Any]) -> bool:
    """Say whether the vision tensors inside a checkpoint are those that its code uses.

    Source: haotian-liu/LLaVA multimodal_encoder/clip_encoder.py (`unfreeze_mm_vision_tower`);
    LLaVA-VL/LLaVA-NeXT, the same file and siglip_encoder.py (`mm_tunable_parts` too).

    >>> trains_tower({"mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model"})
    True
    """
    parts = str(config.get("mm_tunable_parts") or "")
    return bool(config.get("unfreeze_mm_vision_tower", False)) or _TUNABLE in parts


def with_trained_tower(config: Mapping[str, Any], *, trained: bool) -> dict[str, Any]:
    """Return a configuration that says whether the vision tensors inside are used.

    >>> trains_tower(with_trained_tower({"mm_tunable_parts": "mm_vision_tower"}, trained=False))
    False
    """
    told = {**config, "unfreeze_mm_vision_tower": trained}
    if not trained and _TUNABLE in str(config.get("mm_tunable_parts")):
        parts = str(config["mm_tunable_parts"]).split(",")
        told["mm_tunable_parts"] = ",".join(part for part in parts if part.strip() != _TUNABLE)
    return told


def image_words(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the words that LLaVA's code adds to the tokenizer of this checkpoint, in order.

    Source: haotian-liu/LLaVA llava/model/builder.py (an absent `mm_use_im_patch_token` means true).

    >>> image_words({"mm_use_im_patch_token": False, "mm_use_im_start_end": True})
    ('<im_start>', '<im_end>')
    """
    patch = ("<im_patch>",) if config.get("mm_use_im_patch_token", True) else ()
    ends = ("<im_start>", "<im_end>") if config.get("mm_use_im_start_end", False) else ()
    return patch + ends


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
