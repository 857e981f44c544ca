"""Tiny random checkpoints in the published formats, made without torch.

`make_llava` writes what the authors of LLaVA publish, `make_tower` a whole CLIP repository as
OpenAI does; `make_converted`, `make_lora`, `make_projector` and `make_language` the rest. Same arguments, same bytes. The values are small and random: the models say nothing,
but every loader takes them.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.expected import language_shapes, projector_shapes
from llava_pack.checkpoint.keymap import exchange_name
from llava_pack.checkpoint.safetensors_file import SafetensorsWriter
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.checkpoint.tiling import pinpoints
from tests.support import pickles
from tests.support.tiny_models import (
    TOWER_ID,
    Tensors,
    TinyLlava,
    TinyTower,
    Values,
    WeightFormat,
    language_of,
    llava_config,
    llava_tensors,
    packed,
    preprocessor_config,
    tower_config,
    tower_tensors,
)
from tests.support.vocabularies import tiny_tokenizer_model

__all__ = [
    "TOKENIZER_CONFIG",
    "TOWER_ID",
    "Tensors",
    "TinyLlava",
    "TinyTower",
    "WeightFormat",
    "llava_config",
    "llava_tensors",
    "make_converted",
    "make_language",
    "make_llava",
    "make_lora",
    "make_projector",
    "make_tower",
    "packed",
    "preprocessor_config",
    "save_tensors",
    "tower_config",
    "tower_tensors",
    "write_weights",
]


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
    """Write a CLIP repository with its whole pickle, or a SigLIP one; return its folder."""
    spec = spec or TinyTower()
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", tower_config(spec))
    _write_json(folder / "preprocessor_config.json", preprocessor_config(spec))
    weights: WeightFormat = "safetensors" if spec.siglip else "bin"
    write_weights(folder, tower_tensors(spec), weights=weights, shards=1)
    return folder


def make_converted(folder: Path, spec: TinyLlava | None = None, *, tied: bool = False) -> Path:
    """Write the same model as a `llava-hf` folder, in the names of the published ones."""
    spec = spec or TinyLlava()
    make_llava(folder, replace(spec, shards=1, weights="safetensors"))
    (folder / "model.safetensors").unlink()
    tied = tied or spec.tied
    _write_json(folder / "config.json", _converted_config(spec, tied=tied))
    _write_json(folder / "preprocessor_config.json", _converted_preprocessor(spec))
    tensors = llava_tensors(replace(spec, vision_inside=True))
    named = {exchange_name(name): tensor for name, tensor in tensors.items()}
    write_weights(
        folder,
        {n: t for n, t in named.items() if n and not (tied and n.endswith("lm_head.weight"))},
        weights="safetensors",
        shards=spec.shards,
    )
    return folder


def _converted_config(spec: TinyLlava, *, tied: bool) -> dict[str, Any]:
    """Return config.json of a `llava-hf` folder: LLaVA, -NeXT, -OneVision or -Interleave."""
    model_type = ("llava_onevision" if spec.qwen else "llava_next") if spec.tiles else "llava"
    name = {"llava": "Llava", "llava_next": "LlavaNext", "llava_onevision": "LlavaOnevision"}
    tower = dict(tower_config(spec.tower)["vision_config"])
    if spec.tower.siglip:
        tower |= {"num_hidden_layers": spec.tower.layers - 1, "vision_use_head": False}
    config: dict[str, Any] = {
        "architectures": [f"{name[model_type]}ForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": spec.vocabulary - 1,
        "model_type": model_type,
        "projector_hidden_act": "gelu",
        "text_config": _converted_text(spec, tied=tied),
        "vision_config": tower,
        "vision_feature_layer": -1 if spec.tower.siglip else -2,
        "vision_feature_select_strategy": "full" if spec.tower.siglip else "default",
    }
    if spec.tiles:
        side, points = spec.tower.picture, llava_config(spec)["image_grid_pinpoints"]
        config["image_grid_pinpoints"] = [list(pair)[::-1] for pair in pinpoints(points, side)]
    return config


def _converted_text(spec: TinyLlava, *, tied: bool) -> dict[str, Any]:
    config = llava_config(spec)
    extra = ("rms_norm_eps", "rope_theta", "sliding_window", "use_sliding_window")
    return {
        "model_type": {"qwen": "qwen2"}.get(language_of(spec), language_of(spec)),
        "hidden_size": spec.hidden,
        "intermediate_size": spec.inner,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.groups,
        "tie_word_embeddings": tied,
        "vocab_size": spec.vocabulary,
        **({key: config[key] for key in extra} if spec.qwen else {}),
    }


def _converted_preprocessor(spec: TinyLlava) -> dict[str, Any]:
    config = preprocessor_config(spec.tower)
    if spec.tiles and spec.qwen:
        points = _converted_config(spec, tied=False)["image_grid_pinpoints"]
        kind = "LlavaOnevision"
        config |= {
            "do_pad": True,
            "image_grid_pinpoints": points,
            "image_processor_type": f"{kind}ImageProcessor",
            "processor_class": f"{kind}Processor",
        }
    return config


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
        "target_modules": [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ],
        "task_type": "CAUSAL_LM",
    }
    _write_json(folder / "adapter_config.json", adapter)
    values = Values(spec.seed + 1)
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
    kind = {"qwen": "qwen2"}.get(language_of(spec), language_of(spec))
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
