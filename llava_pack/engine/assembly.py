"""The parts of one model put together: network, cache, prompts, pictures."""

import os
from pathlib import Path
from typing import Any, cast

import torch

from llava_pack.checkpoint.config import parse_config
from llava_pack.checkpoint.layout import Layout
from llava_pack.engine import templates
from llava_pack.engine.architecture import build, computed_buffers
from llava_pack.engine.images import picture_processor
from llava_pack.engine.llava import LlavaModel
from llava_pack.engine.load import Options
from llava_pack.engine.memory import Room, free_memory, plan_room
from llava_pack.engine.port import EngineInfo
from llava_pack.engine.prompt import PromptWriter
from llava_pack.engine.quantization import QUANTIZED, Precision
from llava_pack.engine.slots import SlotCache, SlotLayer
from llava_pack.engine.tokens import eos_ids, read_tokenizer
from llava_pack.engine.weights import (
    Placement,
    fill,
    open_checkpoint,
    open_tower,
    vocabulary_size,
)
from llava_pack.format.errors import CheckpointError
from llava_pack.format.progress import Progress

_SMALL = 512
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def assemble(
    model: Layout, tower: Layout, options: Options, device: str, progress: Progress
) -> LlavaModel:
    """Return the model, loaded.

    Raises:
        CheckpointError: a part is damaged, missing or not supported.
        SpaceError: there is no memory for one request beside the weights.
    """
    place = Placement(
        precision=cast("Precision", options.precision),
        dtype=compute_dtype(options.precision, device),
        device=torch.device(device),
    )
    aspect = model.config.get("image_aspect_ratio")
    processor = picture_processor(_json(tower.folder, "preprocessor_config.json"), aspect)
    tokenizer = read_tokenizer(model.folder)
    network = _network(model, tower, place, progress)
    _limit_threads(network)
    room = _room(network, options, place)
    image_tokens = _image_tokens(network.config)
    info = EngineInfo(
        model=model.folder.name,
        precision=options.precision,
        device=device,
        context_tokens=room.context_tokens,
        slots=room.slots,
        conv_mode=options.conv_mode or templates.choose(model.folder.name, model.config),
        image_tokens=image_tokens,
    )
    writer = PromptWriter(
        tokenizer=tokenizer,
        conv_mode=info.conv_mode,
        context_tokens=info.context_tokens,
        eos_ids=eos_ids(model.folder),
        picture_tokens=lambda _: image_tokens,
    )
    return LlavaModel(network, _cache(network, room, place), writer, processor, info)


def compute_dtype(precision: str, device: str) -> torch.dtype:
    """Return what a model computes in; a quantized one in 16 bits on a GPU, in 32 on a CPU."""
    if precision in QUANTIZED:
        return torch.float32 if device == "cpu" else torch.float16
    return _DTYPES[precision]


def _network(model: Layout, tower: Layout, place: Placement, progress: Progress) -> Any:
    checkpoint = open_checkpoint(model)
    sources = [checkpoint] if model.vision_inside else [open_tower(tower), checkpoint]
    network = build(model.config, tower.config, vocabulary_size(checkpoint))
    fill(network, sources, place, progress)
    computed_buffers(network, place.device)
    return network


def _limit_threads(network: Any) -> None:
    """Keep a small model on one thread: handing its work to others takes longer than doing it."""
    if network.config.text_config.hidden_size < _SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def _image_tokens(config: Any) -> int:
    vision = config.vision_config
    patches = int((vision.image_size // vision.patch_size) ** 2)
    return patches + int(config.vision_feature_select_strategy == "full")


def _room(network: Any, options: Options, place: Placement) -> Room:
    text = network.config.text_config
    element_bytes = torch.finfo(place.dtype).bits // 8
    token_bytes = (
        2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * element_bytes
    )
    longest = int(text.max_position_embeddings)
    context_tokens = min(options.context_tokens or longest, longest)
    return plan_room(free_memory(place.device), token_bytes, options.slots, context_tokens)


def _cache(network: Any, room: Room, place: Placement) -> SlotCache:
    text = network.config.text_config
    shape = (room.slots, text.num_key_value_heads, room.context_tokens + 1, text.head_dim)
    layers = range(text.num_hidden_layers)
    return SlotCache([SlotLayer(shape, place.dtype, place.device) for _ in layers])


def _json(folder: Path, name: str) -> dict[str, Any]:
    try:
        return parse_config((folder / name).read_bytes(), subject=f"{folder.name}/{name}")
    except OSError as error:
        raise CheckpointError("no such file", subject=f"{folder.name}/{name}") from error
