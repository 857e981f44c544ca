"""The parts of one model put together: network, cache, prompts, pictures."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch

from llava_pack.checkpoint.context import longest_context
from llava_pack.checkpoint.footprint import (
    cache_bytes_per_token,
    count_parameters,
    footprint,
    working_bytes,
)
from llava_pack.checkpoint.kind import image_words
from llava_pack.checkpoint.model import Checkpoint
from llava_pack.checkpoint.network import Network
from llava_pack.checkpoint.picture_words import PICTURE_ENDS
from llava_pack.checkpoint.template_choice import TemplateChoice
from llava_pack.checkpoint.token_files import eos_ids
from llava_pack.engine.batching.kv_cache import SlotCache, SlotLayer
from llava_pack.engine.batching.model_runner import LlavaModel
from llava_pack.engine.batching.policy import manner
from llava_pack.engine.batching.trace import made_on
from llava_pack.engine.environment import trim_memory
from llava_pack.engine.inputs.image_processor import PictureProcessor
from llava_pack.engine.inputs.prompt import PromptWriter
from llava_pack.engine.inputs.templates import Special
from llava_pack.engine.inputs.tokenizers import Tokenizer, read_tokenizer
from llava_pack.engine.inputs.vision import Vision
from llava_pack.engine.loading.architecture import build, computed_buffers
from llava_pack.engine.loading.memory import Room, free_memory, plan_room
from llava_pack.engine.loading.options import Options
from llava_pack.engine.loading.placement import follow_devices, visible_devices
from llava_pack.engine.loading.tensor_sources import Placement, open_sources
from llava_pack.engine.loading.weights import fill, vocabulary_size
from llava_pack.engine.port import EngineInfo, Picture
from llava_pack.format.errors import SpaceError
from llava_pack.format.precision import Precision, computes_in
from llava_pack.format.progress import Progress
from llava_pack.format.text import human_bytes

_SMALL = 512
_MOST_FEATURES, _FEATURES_SHARE = 1 << 30, 16
"""Features of pictures take at most this many bytes, and this part of what is free."""
_USUAL_CONTEXT = 4096
_PICTURE_ENDS = (Special(PICTURE_ENDS[0]), Special(PICTURE_ENDS[1]))


def assemble(
    checkpoint: Checkpoint,
    options: Options,
    template: TemplateChoice,
    device: str,
    progress: Progress,
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
    place = _spread(checkpoint, options, place)
    config, name = checkpoint.config, checkpoint.model.name
    sources = open_sources(checkpoint)
    rows = vocabulary_size(sources)
    network = build(checkpoint.network, rows)
    processor = PictureProcessor(checkpoint.pictures)
    tokenizer = _tokenizer(checkpoint, config)
    fill(network, sources, place, progress)
    computed_buffers(network, place.device)
    follow_devices(network, place)
    trim_memory()
    _limit_threads(network)
    room, features_bytes = _room(checkpoint, network, options, place)
    one, tiling = checkpoint.network.tower.features, checkpoint.pictures.tiling
    info = EngineInfo(
        model=name,
        precision=options.precision,
        device=device,
        context_tokens=room.context_tokens,
        slots=room.slots,
        conv_mode=template.conv_mode,
        image_tokens=one if tiling is None else tiling.most_tokens,
        made_on=made_on(device),
        picture_mode=options.picture_mode,
    )
    writer = PromptWriter(
        tokenizer=tokenizer,
        conv_mode=info.conv_mode,
        context_tokens=info.context_tokens,
        eos_ids=eos_ids(checkpoint.texts) | eos_ids(checkpoint.model.folder),
        picture_tokens=_counter(checkpoint),
        squares=bool(tiling and tiling.squares),
        picture_ends=_PICTURE_ENDS if config.get("mm_use_im_start_end", False) else None,
        chat_template=template.chat_template,
        tokens=template.tokens,
    )
    graphs = os.environ.get("LLAVA_PACK_GRAPHS", "on") != "off"
    how = manner(device, options.precision, info.context_tokens, graphs=graphs and not place.spread)
    vision = Vision(network, processor, at_once=how.pictures_at_once, limit_bytes=features_bytes)
    return LlavaModel(
        network, _cache(checkpoint.network, network, room, place), writer, vision, info, how
    )


def compute_dtype(precision: str, device: str) -> torch.dtype:
    """Return what a model computes in; a quantized one in 16 bits on a GPU, in 32 on a CPU."""
    dtype: torch.dtype = getattr(torch, computes_in(precision, device))
    return dtype


def _tokenizer(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer with the words that LLaVA's own code adds."""
    # LLaVA's own code takes the fast tokenizer for Mistral only.
    fast = checkpoint.network.language == "mistral" and not checkpoint.native
    return read_tokenizer(checkpoint.texts, words=image_words(config), fast=fast)


def _limit_threads(network: Any) -> None:
    """Keep a small model on one thread: handing its work to others takes longer than doing it."""
    if network.config.text_config.hidden_size < _SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def _counter(checkpoint: Checkpoint) -> Callable[[Picture, bool], int]:
    """Return what counts the tokens of a picture, in tiles or as one square."""
    one, tiling = checkpoint.network.tower.features, checkpoint.pictures.tiling
    if tiling is None:
        return lambda _picture, _square: one
    return lambda picture, square: tiling.tokens(picture.size, square=square)


def _spread(checkpoint: Checkpoint, options: Options, place: Placement) -> Placement:
    """Return where the layers go; one device where everything fits on it.

    Raises:
        SpaceError: the predicted weights are larger than what is free, before any is read.
    """
    precision, devices = place.precision, visible_devices(place.device, options.gpus)
    predicted = footprint(
        count_parameters(checkpoint.config, checkpoint.tower_config),
        checkpoint.config,
        precision=precision,
        device="cpu" if place.device.type == "cpu" else "cuda",
        context_tokens=options.context_tokens or _USUAL_CONTEXT,
        slots=options.slots,
        gpus=len(devices),
    )
    free = [free_memory(device) for device in devices]
    if predicted.weights_bytes > sum(free):
        raise SpaceError(
            f"the weights take {human_bytes(predicted.weights_bytes)} in {precision}, "
            f"{human_bytes(sum(free))} are free on {place.device.type}",
            subject=checkpoint.model.folder.name,
            hint="use a lower precision (--precision nf4), or free some memory",
        )
    places = predicted.places(free)
    if max(places) == 0:
        return place
    return replace(place, device=devices[0], spread=tuple(devices[one] for one in places))


def _room(
    checkpoint: Checkpoint, network: Any, options: Options, place: Placement
) -> tuple[Room, int]:
    """Return the rows of the cache, and the bytes that features of pictures may take.

    Raises:
        SpaceError: there is no memory for one request beside the weights.
    """
    text = network.config.text_config
    element_bytes = torch.finfo(place.dtype).bits // 8
    token_bytes = cache_bytes_per_token(checkpoint.config, element_bytes)
    longest = longest_context(checkpoint.config, int(text.max_position_embeddings))
    context_tokens = min(options.context_tokens or longest, longest)
    free = _free_for_layers(place, text.num_hidden_layers) - working_bytes(
        checkpoint.config,
        context_tokens=context_tokens,
        slots=options.slots,
        element_bytes=element_bytes,
        features=count_parameters(checkpoint.config, checkpoint.tower_config).features,
    )
    features_bytes = max(0, min(_MOST_FEATURES, free // _FEATURES_SHARE))
    free -= features_bytes
    return plan_room(free, token_bytes, options.slots, context_tokens), features_bytes


def _free_for_layers(place: Placement, layers: int) -> int:
    """Return what is free; on several devices, what the one with least for a layer allows all."""
    if not place.spread:
        return free_memory(place.device)
    shares = [free_memory(one) // place.spread.count(one) for one in set(place.spread)]
    return min(shares) * layers


def _cache(sizes: Network, network: Any, room: Room, place: Placement) -> SlotCache:
    text = network.config.text_config
    shape = (room.slots, text.num_key_value_heads, room.context_tokens + 1, sizes.head_width)
    layers = range(text.num_hidden_layers)
    places = place.spread or (place.device,) * len(layers)
    return SlotCache([SlotLayer(shape, place.dtype, places[layer]) for layer in layers])
