"""Tiny random checkpoints in the published formats, made without torch.

`make_llava` writes what the authors of LLaVA publish, `make_tower` a whole CLIP repository as
OpenAI does; `make_converted`, `make_lora`, `make_projector` and `make_language` the rest. Same arguments, same bytes. The values are small and random: the models say nothing,
but every loader takes them.
"""

import json
import random
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from llava_pack.checkpoint.expected import language_shapes, projector_shapes, tower_shapes
from llava_pack.checkpoint.keymap import exchange_name
from llava_pack.checkpoint.safetensors_file import SafetensorsWriter
from llava_pack.checkpoint.tensors import TensorEntry
from tests.support import pickles
from tests.support.pickles import Stored
from tests.support.vocabularies import tiny_tokenizer_model

Tensors = dict[str, Stored]
WeightFormat = Literal["bin", "safetensors"]
TOWER_ID = "llava-pack/clip-tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyTower:
    """Sizes of a CLIP tower; the text side is as small as it can be."""

    width: int = 16
    inner: int = 24
    layers: int = 3
    heads: int = 2
    picture: int = 28
    patch: int = 14
    dtype: str = "F32"
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyLlava:
    """Sizes and variants of a LLaVA in the original layout.

    `projector` is `mm_projector_type`; `tiles` is LLaVA-1.6 (anyres, spatial_unpad,
    image_newline); `vision_inside` puts the tower's tensors into the checkpoint.
    """

    hidden: int = 32
    inner: int = 48
    layers: int = 2
    heads: int = 4
    groups: int = 4
    vocabulary: int = 320
    projector: str = "mlp2x_gelu"
    mistral: bool = False
    tiles: bool = False
    vision_inside: bool = False
    rotary_tables: bool = False
    dtype: str = "F16"
    weights: WeightFormat = "bin"
    shards: int = 2
    tower_id: str = TOWER_ID
    seed: int = 0
    tower: TinyTower = field(default_factory=TinyTower)
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Values of config.json to put in place of, or beside, the usual ones."""


def llava_config(spec: TinyLlava) -> dict[str, Any]:
    """Return config.json with the keys of the published ones."""
    config: dict[str, Any] = {
        "architectures": ["LlavaMistralForCausalLM" if spec.mistral else "LlavaLlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False,
        "hidden_act": "silu",
        "hidden_size": spec.hidden,
        "image_aspect_ratio": "pad",
        "initializer_range": 0.02,
        "intermediate_size": spec.inner,
        "max_position_embeddings": 2048,
        "mm_hidden_size": spec.tower.width,
        "mm_projector_type": spec.projector,
        "mm_resampler_type": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": spec.tower_id,
        "model_type": "llava_mistral" if spec.mistral else "llava",
        "num_attention_heads": spec.heads,
        "num_hidden_layers": spec.layers,
        "num_key_value_heads": spec.groups,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "torch_dtype": {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}[spec.dtype],
        "transformers_version": "4.31.0",
        "tune_mm_mlp_adapter": False,
        "unfreeze_mm_vision_tower": spec.vision_inside,
        "use_cache": True,
        "use_mm_proj": True,
        "vocab_size": spec.vocabulary,
    }
    if spec.tiles:
        side = spec.tower.picture
        config |= {
            "image_aspect_ratio": "anyres",
            "image_crop_resolution": 224,
            "image_grid_pinpoints": [
                [side, 2 * side], [2 * side, side], [2 * side, 2 * side],
                [3 * side, side], [side, 3 * side],
            ],
            "image_split_resolution": 224,
            "mm_patch_merge_type": "spatial_unpad",
        }  # fmt: skip
    return {**config, **spec.changes}


def tower_config(spec: TinyTower) -> dict[str, Any]:
    """Return a CLIP repository's config.json."""
    return {
        "architectures": ["CLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "clip",
        "projection_dim": 8,
        "text_config": {
            "hidden_size": 8,
            "intermediate_size": 8,
            "max_position_embeddings": 8,
            "model_type": "clip_text_model",
            "num_attention_heads": 1,
            "num_hidden_layers": 1,
            "projection_dim": 8,
            "vocab_size": 16,
        },
        "torch_dtype": "float32",
        "vision_config": {
            "hidden_act": "quick_gelu",
            "hidden_size": spec.width,
            "image_size": spec.picture,
            "intermediate_size": spec.inner,
            "model_type": "clip_vision_model",
            "num_attention_heads": spec.heads,
            "num_hidden_layers": spec.layers,
            "patch_size": spec.patch,
            "projection_dim": 8,
        },
    }


def preprocessor_config(spec: TinyTower) -> dict[str, Any]:
    """Return a CLIP repository's preprocessor_config.json."""
    return {
        "crop_size": spec.picture,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": spec.picture,
    }


def llava_tensors(spec: TinyLlava) -> Tensors:
    """Return the tensors of a checkpoint, in the order of a published one."""
    config = llava_config(spec)
    shapes = language_shapes(config) | projector_shapes(config)
    values = _Values(spec.seed)
    tensors = {name: values.tensor(name, shape, spec.dtype) for name, shape in shapes.items()}
    if spec.rotary_tables:
        half = spec.hidden // spec.heads // 2
        for layer in range(spec.layers):
            name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
            tensors[name] = values.tensor(name, (half,), "F32")
    if spec.vision_inside:
        inside = _vision_shapes(spec.tower)
        for name, shape in inside.items():
            full = f"model.vision_tower.vision_tower.{name}"
            tensors[full] = values.tensor(full, shape, spec.dtype)
    return tensors


def tower_tensors(spec: TinyTower) -> Tensors:
    """Return the tensors of a CLIP repository, text side and position ids included."""
    values = _Values(spec.seed)
    shapes = _vision_shapes(spec) | _text_shapes()
    tensors = {name: values.tensor(name, shape, spec.dtype) for name, shape in shapes.items()}
    patches = (spec.picture // spec.patch) ** 2 + 1
    for side, count in (("vision", patches), ("text", 8)):
        data = struct.pack(f"<{count}q", *range(count))
        tensors[f"{side}_model.embeddings.position_ids"] = Stored("I64", (1, count), data)
    return tensors


def make_llava(folder: Path, spec: TinyLlava | None = None) -> Path:
    """Write a LLaVA as its authors publish it, and return its folder."""
    spec = spec or TinyLlava()
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", llava_config(spec))
    _write_json(
        folder / "generation_config.json",
        {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "transformers_version": "4.31.0"},
    )
    (folder / "tokenizer.model").write_bytes(tiny_tokenizer_model(spec.vocabulary))
    _write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    _write_json(
        folder / "special_tokens_map.json",
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"},
    )
    write_weights(folder, llava_tensors(spec), weights=spec.weights, shards=spec.shards)
    return folder


def make_tower(folder: Path, spec: TinyTower | None = None) -> Path:
    """Write a CLIP repository with its whole pickle, and return its folder."""
    spec = spec or TinyTower()
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", tower_config(spec))
    _write_json(folder / "preprocessor_config.json", preprocessor_config(spec))
    write_weights(folder, tower_tensors(spec), weights="bin", shards=1)
    return folder


def make_converted(folder: Path, spec: TinyLlava | None = None, *, tied: bool = False) -> Path:
    """Write the same model as a `llava-hf` folder, in the names of the published ones."""
    spec = spec or TinyLlava()
    make_llava(folder, replace(spec, shards=1, weights="safetensors"))
    (folder / "model.safetensors").unlink()
    model_type = "llava_next" if spec.tiles else "llava"
    tower = tower_config(spec.tower)["vision_config"]
    config = {
        "architectures": [f"Llava{'Next' if spec.tiles else ''}ForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": spec.vocabulary - 1,
        "model_type": model_type,
        "projector_hidden_act": "gelu",
        "text_config": {
            "model_type": "mistral" if spec.mistral else "llama",
            "hidden_size": spec.hidden,
            "intermediate_size": spec.inner,
            "num_hidden_layers": spec.layers,
            "num_attention_heads": spec.heads,
            "num_key_value_heads": spec.groups,
            "tie_word_embeddings": tied,
            "vocab_size": spec.vocabulary,
        },
        "vision_config": tower,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    _write_json(folder / "config.json", config)
    tensors = llava_tensors(replace(spec, vision_inside=True))
    named = {exchange_name(name): tensor for name, tensor in tensors.items()}
    write_weights(
        folder,
        {n: t for n, t in named.items() if n and not (tied and n.endswith("lm_head.weight"))},
        weights="safetensors",
        shards=spec.shards,
    )
    return folder


def make_projector(folder: Path, spec: TinyLlava | None = None) -> Path:
    """Write what LLaVA's first training stage leaves: a projector over a language model."""
    spec = spec or TinyLlava()
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", llava_config(spec))
    save_tensors(folder / "mm_projector.bin", _projector(spec, ""))
    (folder / "training_args.bin").write_bytes(b"a pickle that nobody opens")
    return folder


def make_lora(folder: Path, spec: TinyLlava | None = None, *, rank: int = 4) -> Path:
    """Write what LLaVA's LoRA training leaves: adapter, projector, configuration."""
    spec = spec or TinyLlava()
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", llava_config(spec))
    adapter = {
        "base_model_name_or_path": "lmsys/vicuna-tiny",
        "bias": "none",
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.05,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"],
        "task_type": "CAUSAL_LM",
    }
    _write_json(folder / "adapter_config.json", adapter)
    values = _Values(spec.seed + 1)
    tensors: Tensors = {}
    for name, shape in language_shapes(llava_config(spec)).items():
        if name.endswith("_proj.weight"):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            for letter, part in (("A", (rank, shape[1])), ("B", (shape[0], rank))):
                full = f"{stem}.lora_{letter}.weight"
                tensors[full] = values.tensor(full, part, spec.dtype)
    save_tensors(folder / "adapter_model.bin", tensors)
    save_tensors(folder / "non_lora_trainables.bin", _projector(spec, "base_model.model."))
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    _write_json(folder / "trainer_state.json", {"epoch": 1.0})
    return folder


def make_language(folder: Path, spec: TinyLlava | None = None) -> Path:
    """Write a plain Llama or Mistral, as the base of an adapter or a projector."""
    spec = spec or TinyLlava()
    make_llava(folder, replace(spec, shards=1, weights="safetensors"))
    kind = "mistral" if spec.mistral else "llama"
    config = {n: v for n, v in llava_config(spec).items() if "mm_" not in n and "image" not in n}
    config |= {"architectures": [f"{kind.title()}ForCausalLM"], "model_type": kind}
    _write_json(folder / "config.json", config)
    tensors = {n: t for n, t in llava_tensors(spec).items() if n in language_shapes(config)}
    write_weights(folder, tensors, weights="safetensors")
    return folder


def _projector(spec: TinyLlava, prefix: str) -> Tensors:
    shapes = projector_shapes(llava_config(spec))
    return {f"{prefix}{n}": t for n, t in llava_tensors(spec).items() if n in shapes}


TOKENIZER_CONFIG = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "legacy": False,
    "model_max_length": 2048,
    "pad_token": None,
    "padding_side": "right",
    "sp_model_kwargs": {},
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>",
}


def write_weights(
    folder: Path, tensors: Tensors, *, weights: WeightFormat, shards: int = 1
) -> list[Path]:
    """Write tensors as published: one file, or numbered shards with their index."""
    stem, suffix = ("pytorch_model", "bin") if weights == "bin" else ("model", "safetensors")
    names = list(tensors)
    size = -(-len(names) // shards)
    parts = [names[start : start + size] for start in range(0, len(names), size)]
    paths: list[Path] = []
    places: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        numbered = f"{stem}-{number:05d}-of-{len(parts):05d}.{suffix}"
        path = folder / (numbered if len(parts) > 1 else f"{stem}.{suffix}")
        save_tensors(path, {name: tensors[name] for name in part})
        paths.append(path)
        places |= dict.fromkeys(part, path.name)
    if len(parts) > 1:
        total = sum(len(tensor.data) for tensor in tensors.values())
        index = folder / f"{stem}.{suffix}.index.json"
        _write_json(index, {"metadata": {"total_size": total}, "weight_map": places})
    return paths


def save_tensors(path: Path, tensors: Tensors) -> Path:
    """Write one weight file of the kind that its name says."""
    if path.suffix == ".bin":
        return pickles.save(path, tensors)
    entries = [TensorEntry(name, item.dtype, item.shape) for name, item in tensors.items()]
    with path.open("wb") as out:
        writer = SafetensorsWriter(out, entries)
        writer.write_all(lambda entry: memoryview(tensors[entry.name].data))
    return path


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _vision_shapes(spec: TinyTower) -> dict[str, tuple[int, ...]]:
    return tower_shapes(tower_config(spec))


def _text_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.token_embedding.weight": (16, 8),
        "embeddings.position_embedding.weight": (8, 8),
        **_encoder_shapes(8, 8, 1),
        "final_layer_norm.weight": (8,),
        "final_layer_norm.bias": (8,),
    }
    return {
        **{f"text_model.{name}": shape for name, shape in shapes.items()},
        "logit_scale": (),
        "text_projection.weight": (8, 8),
        "visual_projection.weight": (8, 16),
    }


def _encoder_shapes(width: int, inner: int, layers: int) -> dict[str, tuple[int, ...]]:
    layer: dict[str, tuple[int, ...]] = {}
    for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
        layer[f"self_attn.{part}.weight"] = (width, width)
        layer[f"self_attn.{part}.bias"] = (width,)
    for norm in ("layer_norm1", "layer_norm2"):
        layer[f"{norm}.weight"] = layer[f"{norm}.bias"] = (width,)
    layer |= {
        "mlp.fc1.weight": (inner, width),
        "mlp.fc1.bias": (inner,),
        "mlp.fc2.weight": (width, inner),
        "mlp.fc2.bias": (width,),
    }
    return {
        f"encoder.layers.{number}.{name}": shape
        for number in range(layers)
        for name, shape in layer.items()
    }


class _Values:
    """Random values by seed; norms are near one, the rest small."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str) -> Stored:
        count = 1
        for size in shape:
            count *= size
        centre = 1.0 if name.endswith("norm.weight") or ".layer_norm" in name else 0.0
        values = [self._random.gauss(centre, 0.1) for _ in range(count)]
        return Stored(dtype, shape, packed(values, dtype))


def packed(values: list[float], dtype: str) -> bytes:
    """Return floats as the bytes of a type."""
    if dtype == "BF16":
        wide = struct.pack(f"<{len(values)}f", *values)
        return b"".join(wide[start + 2 : start + 4] for start in range(0, len(wide), 4))
    letter = {"F16": "e", "F32": "f", "F64": "d"}[dtype]
    return struct.pack(f"<{len(values)}{letter}", *values)
