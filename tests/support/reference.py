"""transformers' own loading and `generate`, as the oracle of the engine's tests.

The checkpoint is rewritten into the `-hf` layout with torch and transformers alone, loaded by
`from_pretrained`, and asked with ids that sentencepiece made from the prompt's pieces.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sentencepiece import SentencePieceProcessor
from transformers import (
    BitsAndBytesConfig,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from llava_pack.engine.port import Picture

_SKIP = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]


@dataclass(frozen=True)
class Reference:
    """A checkpoint in transformers' own hands; `image_id` is an id that no prompt uses."""

    model: Any
    tokenizer: SentencePieceProcessor
    processor: LlavaImageProcessorPil
    image_id: int

    def answer(self, pieces: Sequence[str | Picture], max_tokens: int) -> list[int]:
        """Return the greedy answer to a prompt whose texts are tokenized one by one."""
        ids = [self.tokenizer.bos_id()]
        for piece in pieces:
            if isinstance(piece, str):
                ids += self.tokenizer.encode(piece)
            else:
                ids += [self.image_id] * self._picture_tokens()
        pictures = [piece for piece in pieces if isinstance(piece, Picture)]
        device = self.model.device
        given: dict[str, Any] = {"input_ids": torch.tensor([ids], device=device)}
        if pictures:
            given["pixel_values"] = self.pixels(pictures).to(device, self.model.dtype)
        with torch.inference_mode():
            out = self.model.generate(
                **given,
                attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=device),
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return [int(token) for token in out[0, len(ids) :]]

    def pixels(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """Return what transformers makes of pictures, padded to squares."""
        images = [Image.frombytes("RGB", (p.width, p.height), bytes(p.rgb)) for p in pictures]
        values: torch.Tensor = self.processor(images, return_tensors="pt")["pixel_values"]
        return values

    def _picture_tokens(self) -> int:
        vision = self.model.config.vision_config
        return int((vision.image_size // vision.patch_size) ** 2)


def reference(
    model_dir: Path,
    tower_dir: Path,
    work_dir: Path,
    precision: str = "fp32",
    dtype: torch.dtype = torch.float32,
) -> Reference:
    """Return a checkpoint in the original layout as transformers loads it."""
    config = _read(model_dir / "config.json")
    vision = _read(tower_dir / "config.json")["vision_config"]
    processing = _read(tower_dir / "preprocessor_config.json")
    image_id = 0  # <unk>: bytes without a piece of their own become byte pieces
    whole = LlavaConfig(
        text_config=LlamaConfig(**_text(config)),
        vision_config=CLIPVisionConfig(**vision),
        image_token_index=image_id,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    _save(model_dir, tower_dir, work_dir, whole)
    model = LlavaForConditionalGeneration.from_pretrained(
        work_dir, dtype=dtype, quantization_config=_quantization(precision, dtype)
    )
    edge = processing["size"] if isinstance(processing["size"], int) else processing["size"]["shortest_edge"]  # fmt: skip
    return Reference(
        model=model.eval(),
        tokenizer=SentencePieceProcessor(model_file=str(model_dir / "tokenizer.model")),
        processor=LlavaImageProcessorPil(
            do_pad=True,
            size={"shortest_edge": edge},
            crop_size={"height": edge, "width": edge},
            image_mean=processing["image_mean"],
            image_std=processing["image_std"],
        ),
        image_id=image_id,
    )


def _quantization(precision: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if precision == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=_SKIP,
        )
    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_SKIP)
    return None


def _text(config: Mapping[str, Any]) -> dict[str, Any]:
    keys = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "max_position_embeddings",
    )  # fmt: skip
    return {key: config[key] for key in keys}


def _save(model_dir: Path, tower_dir: Path, work_dir: Path, config: LlavaConfig) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in _load(model_dir).items():
        tensors[_hf_name(name)] = tensor.float().contiguous()
    for name, tensor in _load(tower_dir).items():
        if name.startswith("vision_model.") and not name.endswith("position_ids"):
            tensors[f"vision_tower.{name}"] = tensor.float().contiguous()
    work_dir.mkdir(parents=True, exist_ok=True)
    save_file(tensors, work_dir / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(work_dir)


def _hf_name(name: str) -> str:
    for number, linear in (("0", "linear_1"), ("2", "linear_2")):
        if name.startswith(f"model.mm_projector.{number}."):
            return f"multi_modal_projector.{linear}.{name.rsplit('.', 1)[1]}"
    return f"language_model.{name}"


def _load(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.bin")):
        tensors |= torch.load(path, weights_only=True)
    return tensors


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_bytes())
    return value
