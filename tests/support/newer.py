"""LLaVA-OneVision and LLaVA-Interleave in miniature, and transformers' own classes as their oracle.

The oracle gets the ids that the engine writes: prompts are held against others elsewhere.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

from llava_pack.engine.port import Delta, Failed, Message, Picture, Request
from llava_pack.engine.sampling import Sampling
from tests.support.checkpoints import (
    TinyLlava,
    TinyTower,
    make_converted,
    make_llava,
    make_tower,
)

MODE = "plain"
MAX_TOKENS = 40
IMAGE_ID = 0  # <unk>: no prompt has it
TOWER = TinyTower(width=32, inner=48, layers=4, picture=30, patch=7, dtype="F16", siglip=True)
ONEVISION = TinyLlava(
    hidden=64,
    inner=128,
    groups=2,
    qwen=True,
    tiles=True,
    vision_inside=True,
    weights="safetensors",
    tower=TOWER,
    tower_id="tiny/siglip-tiny",
)
TIED = replace(ONEVISION, tied=True, seed=4)
INTERLEAVE = replace(ONEVISION, tiles=False, seed=5)
SIZES = {
    "square": (60, 60),
    "wide": (150, 60),
    "tall": (37, 110),
    "line": (70, 1),
    "small": (9, 7),
    "banner": (1000, 50),
    "scaled-down": (400, 390),
}
QUESTIONS: dict[str, tuple[tuple[int, int], ...]] = {
    **{name: (size,) for name, size in SIZES.items()},
    "text": (),
    "two": ((60, 60), (150, 60)),
    "three": ((33, 35), (9, 7), (10, 80)),
}
"""What is asked of every model: the sizes of its pictures."""


def noise(width: int, height: int) -> Picture:
    """Return a picture of random pixels."""
    return Picture(width, height, random.Random(width * height).randbytes(width * height * 3))


def image(picture: Picture) -> Image.Image:
    """Return a picture as transformers takes it."""
    return Image.frombytes("RGB", picture.size, bytes(picture.rgb))


def asked(name: str) -> tuple[Message, ...]:
    """Return a question by its name."""
    pictures = tuple(noise(*size) for size in QUESTIONS[name])
    return (Message("user", (*pictures, "what is this?")),)


def request(messages: tuple[Message, ...], name: str = "a", **options: Any) -> Request:
    """Return a greedy request."""
    sampling = Sampling(max_tokens=MAX_TOKENS)
    return Request(request_id=name, messages=messages, sampling=sampling, **options)


def answers(engine: Any, requests: Sequence[Request]) -> dict[str, list[int]]:
    """Return the tokens of requests that are made together."""
    tokens: dict[str, list[int]] = {one.request_id: [] for one in requests}
    for one in requests:
        engine.submit(one)
    while not engine.idle:
        for event in engine.step():
            assert not isinstance(event, Failed), event
            if isinstance(event, Delta):
                tokens[event.request_id] += event.token_ids
    return tokens


def answer(engine: Any, messages: tuple[Message, ...]) -> list[int]:
    """Return the tokens of one request."""
    return answers(engine, [request(messages)])["a"]


def make_original(folder: Path, spec: TinyLlava) -> Path:
    """Write a model in the original layout with its tower beside it."""
    make_tower(folder / "siglip-tiny", spec.tower)
    return make_llava(folder / "llava-ov-tiny", spec)


@dataclass(frozen=True)
class Oracle:
    """A converted folder in the hands of transformers' own class."""

    model: Any
    processor: Any

    def inputs(self, engine: Any, messages: tuple[Message, ...]) -> dict[str, torch.Tensor]:
        """Return ids and pixels; the ids are those of the engine's prompt."""
        ids = [
            IMAGE_ID if one == -200 else one for one in engine._model.write(request(messages)).ids
        ]
        given = {"input_ids": torch.tensor([ids])}
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        return given | self.pixels([p for one in messages for p in one.pictures])

    def pixels(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        """Return what transformers makes of the pictures of one request."""
        if not pictures:
            return {}
        images = [image(one) for one in pictures]
        nested = isinstance(self.processor, LlavaOnevisionImageProcessorPil)
        made = self.processor([images] if nested else images, return_tensors="pt")
        return {key: torch.as_tensor(value) for key, value in made.items()}

    def tiles(self, pictures: Sequence[Picture]) -> list[Any]:
        """Return what the tower gets of each picture, as (tiles, 3, height, width)."""
        if not pictures:
            return []
        made = self.pixels(pictures)["pixel_values"].numpy()
        return [one if one.ndim == 4 else one[None] for one in made]

    def answer(self, engine: Any, messages: tuple[Message, ...]) -> list[int]:
        """Return the greedy tokens."""
        given = self.inputs(engine, messages)
        with torch.inference_mode():
            out = self.model.generate(
                **given, max_new_tokens=MAX_TOKENS, do_sample=False, pad_token_id=0
            )
        return [int(token) for token in out[0, given["input_ids"].shape[1] :]]

    def logits(self, engine: Any, messages: tuple[Message, ...]) -> torch.Tensor:
        """Return the logits of the first token of the answer."""
        with torch.inference_mode():
            scores: torch.Tensor = self.model(**self.inputs(engine, messages)).logits[0, -1]
        return scores


def oracle(folder: Path, **options: Any) -> Oracle:
    """Return a converted folder as transformers loads it, every tensor at its place."""
    model, report = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **options
    )
    assert not any(report.values()), report
    model.config.image_token_index = IMAGE_ID
    return Oracle(model.eval(), AutoImageProcessor.from_pretrained(folder, backend="pil"))


def made_pair(folder: Path, spec: TinyLlava) -> tuple[Path, Path]:
    """Write the same model in the original and in the converted layout."""
    return make_original(folder, spec), make_converted(folder / "llava-ov-tiny-hf", spec)
