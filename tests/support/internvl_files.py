"""The small files of InternVL in miniature, as OpenGVLab publishes it.

Source: config.json and tokenizer_config.json of OpenGVLab/InternVL2-2B and OpenGVLab/InternVL3-1B.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.byte_level import write_qwen
from tests.support.vocabularies import BYTE, CONTROL, NORMAL, UNKNOWN, tokenizer_model

SIDE, PATCH = 56, 14
TEMPLATES = {"internlm2": "internlm2-chat", "qwen2": "internvl2_5", "llama": "Hermes-2"}
_ADDED = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>")


@dataclass(frozen=True, kw_only=True)
class TinyInternVl:
    """Sizes and variants; `big_tower` is the tower of 6 billion: other norms, no bias."""

    language: str = "qwen2"
    heads: int = 4
    groups: int = 2
    layers: int = 2
    tied: bool = False
    big_tower: bool = False
    select: int = -1
    weights: str = "safetensors"
    changes: dict[str, Any] = field(default_factory=dict)
    llm_changes: dict[str, Any] = field(default_factory=dict)


def write_texts(folder: Path, spec: TinyInternVl) -> int:
    """Write all but the weights, code included, and return how many words there are."""
    folder.mkdir(parents=True, exist_ok=True)
    words = write_internlm(folder) if spec.language == "internlm2" else write_words(folder)
    config = published_config(spec, words)
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False))
    ends = {"eos_token_id": [1, 2]} if spec.language == "internlm2" else {"max_new_tokens": 9}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    for name in ("modeling_internvl_chat.py", "configuration_internvl_chat.py", "conversation.py"):
        (folder / name).write_text("raise SystemExit('code of a checkpoint was run')\n")
    return words


def llm_config(spec: TinyInternVl, words: int) -> dict[str, Any]:
    """Return the language model's part of config.json, what decides its network."""
    values: dict[str, Any] = {
        "model_type": spec.language,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.groups,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-05 if spec.language == "internlm2" else 1e-06,
        "rope_theta": 1000000.0,
        "rope_scaling": {"factor": 2.0, "type": "dynamic"},
        "tie_word_embeddings": spec.tied,
        "vocab_size": words,
    }
    if spec.language == "internlm2":
        values |= {"bias": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    return {**values, **spec.llm_changes}


def published_config(spec: TinyInternVl, words: int) -> dict[str, Any]:
    """Return config.json with the keys of the published ones."""
    names = {"internlm2": "InternLM2", "qwen2": "Qwen2", "llama": "Llama"}
    named = names.get(spec.language, spec.language.title())
    llm = {
        **llm_config(spec, words),
        "_name_or_path": "internlm/internlm2-chat-1_8b",
        "architectures": [f"{named}ForCausalLM"],
        "attn_implementation": "eager",
        "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
        "max_length": 20,
        "use_bfloat16": True,
    }
    return {
        "_commit_hash": None,
        "architectures": ["InternVLChatModel"],
        "auto_map": {
            "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
            "AutoModel": "modeling_internvl_chat.InternVLChatModel",
        },
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": SIDE,
        "llm_config": llm,
        "max_dynamic_patch": 4,
        "min_dynamic_patch": 1,
        "model_type": "internvl_chat",
        "ps_version": "v2",
        "select_layer": spec.select,
        "template": TEMPLATES.get(spec.language, "internvl2_5"),
        "torch_dtype": "bfloat16",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": _vision(spec),
        **spec.changes,
    }


def _vision(spec: TinyInternVl) -> dict[str, Any]:
    return {
        "architectures": ["InternVisionModel"],
        "attention_dropout": 0.0,
        "drop_path_rate": 0.1,
        "dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": 32,
        "image_size": SIDE,
        "initializer_factor": 0.1,
        "initializer_range": 1e-10,
        "intermediate_size": 64,
        "layer_norm_eps": 1e-06,
        "model_type": "intern_vit_6b",
        "norm_type": "rms_norm" if spec.big_tower else "layer_norm",
        "num_attention_heads": 4,
        "num_channels": 3,
        "num_hidden_layers": spec.layers,
        "patch_size": PATCH,
        "qk_normalization": spec.big_tower,
        "qkv_bias": not spec.big_tower,
        "use_flash_attn": True,
    }


def write_words(folder: Path) -> int:
    """Write Qwen's tokenizer with InternVL's words, and return how many words there are."""
    write_qwen(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_bytes())
    decoder = config["added_tokens_decoder"]
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    for word in _ADDED:
        decoder[str(max(map(int, decoder)) + 1)] = {"content": word, **flags, "special": True}
    config["model_max_length"] = 8192
    path.write_text(json.dumps(config))
    return max(map(int, decoder)) + 1


def write_internlm(folder: Path) -> int:
    """Write InternLM2's tokenizer: places that are kept in it have names in a file beside it."""
    letters = "abcdefghijklmnopqrstuvwxyz▁\n?.,ASIHVNTRUw:"
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    pieces += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    pieces += [(one, -float(at), NORMAL) for at, one in enumerate(dict.fromkeys(letters))]
    pieces += [("th", -1.0, NORMAL), ("the", -0.5, NORMAL)]
    first = len(pieces)
    pieces += [(f"[UNUSED_TOKEN_{140 + at}]", 0.0, NORMAL) for at in range(4)]
    (folder / "tokenizer.model").write_bytes(tokenizer_model(pieces, add_dummy_prefix=False))
    named = {first + 2: "<|im_end|>", first + 3: "<|im_start|>"}
    named |= {len(pieces) + at: word for at, word in enumerate(_ADDED)}
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    decoder = {
        str(number): {"content": word, **flags, "special": True} for number, word in named.items()
    }
    config = {
        "added_tokens_decoder": decoder,
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 8192,
        "tokenizer_class": "InternLM2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(pieces) + len(_ADDED)
