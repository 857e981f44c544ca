"""Tiny checkpoints of every LLaVA family, and what is asked of them; the same bytes anywhere.

Read by the recorder of LLaVA's own answers, which runs in another environment, and by the tests
that compare. Needs no torch.
"""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.checkpoints import (
    TOKENIZER_CONFIG,
    TinyLlava,
    TinyTower,
    make_language,
    make_llava,
    make_lora,
    make_projector,
    make_tower,
)
from tests.support.vocabularies import tiny_tokenizer_model

MAX_TOKENS = 64
LOGITS = 128
"""How many of a prompt's last logits are kept; what makes one wrong makes all wrong."""
PIECES = 320
_TOWER = TinyTower(width=32, inner=48, picture=56, layers=3, dtype="F16")
# Multiples of what bitsandbytes' kernels take, so that every linear is quantized.
_PLAIN = TinyLlava(hidden=64, inner=128, layers=2, groups=2, tower=_TOWER)
_CLIP_B = TinyTower(width=48, inner=96, heads=3, picture=64, patch=32, layers=3, dtype="F16")
_TILES = replace(_PLAIN, tiles=True, vision_inside=True, weights="safetensors")
_OWN_CODE = {"model_type": "llava_llama"}
"""The type as LLaVA 1.2 writes it; released checkpoints still say "llava"."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of checkpoint.

    `name` is the model folder's, since LLaVA's own code decides by it; `base` is how its base
    model is made, where it has one. `words` are added to the tokenizer, from id 320 on. `chats`
    are those that are asked, all where it names none.
    """

    name: str
    spec: TinyLlava
    conv_mode: str
    make: Callable[[Path, TinyLlava], Path] = make_llava
    base: Callable[[Path, TinyLlava], Path] | None = None
    words: tuple[str, ...] = ()
    legacy: bool = False
    chats: tuple[str, ...] = ()

    @property
    def asked(self) -> "Mapping[str, Chat]":
        """Return the chats that LLaVA's own code can have with it."""
        return {name: CHATS[name] for name in self.chats or CHATS}


@dataclass(frozen=True)
class Made:
    """A family's folders; `tower` is also named in the checkpoint's configuration."""

    model: Path
    base: Path | None
    tower: Path


FAMILIES = {
    "v1.5": Family(name="llava-v1.5-tiny", spec=_PLAIN, conv_mode="llava_v1"),
    "v1.5-legacy": Family(
        name="llava-v1.5-tiny",
        spec=replace(_PLAIN, rotary_tables=True, seed=3),
        conv_mode="vicuna_v1",
        legacy=True,
    ),
    "v1.6-vicuna": Family(name="llava-v1.6-vicuna-tiny", spec=_TILES, conv_mode="llava_v1"),
    "v1.6-mistral": Family(
        name="llava-v1.6-mistral-tiny",
        spec=replace(_TILES, mistral=True, seed=5, changes={"sliding_window": None}),
        conv_mode="mistral_instruct",
    ),
    "mistral-window": Family(
        name="llava-v1.6-mistral-tiny",
        spec=replace(_TILES, mistral=True, seed=6, changes={"sliding_window": 40}),
        conv_mode="mistral_instruct",
    ),
    "v1.6-34b": Family(
        name="llava-v1.6-34b-tiny",
        spec=replace(_TILES, vocabulary=PIECES + 2, seed=7, changes={"eos_token_id": PIECES + 1}),
        conv_mode="chatml_direct",
        words=("<|im_start|>", "<|im_end|>"),
    ),
    "flat-tiles": Family(
        name="llava-v1.6-flat-tiny",
        spec=replace(_TILES, seed=8, changes={"mm_patch_merge_type": "flat"}),
        conv_mode="llava_v1",
    ),
    "own-tower": Family(
        name="llava-v1.5-tuned-tiny",
        spec=replace(_PLAIN, vision_inside=True, seed=9),
        conv_mode="llava_v1",
    ),
    "linear": Family(
        name="llava-v0-tiny",
        spec=replace(_PLAIN, projector="linear", seed=10),
        conv_mode="llava_v0",
    ),
    "image-words": Family(
        name="llava-v1-words-tiny",
        spec=replace(
            _PLAIN,
            vocabulary=PIECES + 3,
            seed=11,
            changes={"mm_use_im_start_end": True, "mm_use_im_patch_token": True},
        ),
        conv_mode="llava_v1",
        words=("<im_patch>", "<im_start>", "<im_end>"),
    ),
    "padded": Family(
        name="llava-v1.5-padded-tiny",
        spec=replace(_PLAIN, vocabulary=PIECES + 64, seed=12),
        conv_mode="llava_llama_2",
    ),
    "lora": Family(
        name="llava-v1.5-tiny-lora",
        spec=replace(_PLAIN, dtype="F32", seed=13, changes=_OWN_CODE),
        conv_mode="llava_v1",
        make=make_lora,
        base=make_language,
    ),
    "projector": Family(
        name="llava-v1.5-tiny-pretrain",
        spec=replace(_PLAIN, seed=14, changes=_OWN_CODE),
        conv_mode="llava_v1",
        make=make_projector,
        base=make_language,
    ),
    # Cut out of the middle, a picture that is one pixel high is taken for one of a single colour.
    "cropped": Family(
        name="llava-v1.5-cropped-tiny",
        spec=replace(_PLAIN, seed=16, changes={"image_aspect_ratio": "square"}),
        conv_mode="llava_v1",
        chats=("square", "wide", "tall", "small", "turns", "text"),
    ),
    "budget": Family(
        name="llava-v1-budget-tiny",
        spec=TinyLlava(
            hidden=128,
            inner=192,
            heads=8,
            groups=2,
            dtype="BF16",
            tower=_CLIP_B,
            seed=15,
            changes=_OWN_CODE,
        ),
        conv_mode="llava_v1",
        make=make_projector,
        base=make_language,
    ),
}

SIZES = {"square": (60, 60), "wide": (150, 60), "tall": (37, 110), "line": (70, 1), "small": (9, 7)}


@dataclass(frozen=True)
class Chat:
    """A conversation up to the question: turns in order, the picture goes with the first."""

    picture: tuple[int, int] | None
    turns: tuple[str, ...]


CHATS = {
    **{name: Chat(size, ("what is in this picture?",)) for name, size in SIZES.items()},
    "turns": Chat(SIZES["wide"], ("what is this?", "a red star.", "and the circle?")),
    "text": Chat(None, ("is the star red?",)),
}


def rgb(size: tuple[int, int]) -> bytes:
    """Return a picture's bytes: noise over a gradient."""
    width, height = size
    chance = random.Random(width * 1000 + height)
    return bytes(
        (255 * x // width + (90 * channel) + chance.randrange(64)) % 256
        for _ in range(height)
        for x in range(width)
        for channel in range(3)
    )


def make(family: Family, folder: Path) -> Made:
    """Write a family's folders."""
    tower = make_tower(folder / "clip-tiny", family.spec.tower)
    changes = {**family.spec.changes, "mm_vision_tower": str(tower.absolute())}
    spec = replace(family.spec, changes=changes)
    model = family.make(folder / family.name, spec)
    base = family.base(folder / "vicuna-tiny", spec) if family.base else None
    _write_tokenizer(base or model, family)
    return Made(model, base, tower)


def _write_tokenizer(folder: Path, family: Family) -> None:
    """Write a tokenizer of 320 pieces and the family's own words."""
    config: dict[str, Any] = {**TOKENIZER_CONFIG, "legacy": family.legacy}
    (folder / "tokenizer.model").write_bytes(tiny_tokenizer_model(PIECES))
    if family.words:
        added = {PIECES + place: word for place, word in enumerate(family.words)}
        known = {0: "<unk>", 1: "<s>", 2: "</s>", **added}
        config["added_tokens_decoder"] = {str(at): _special(word) for at, word in known.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def _special(word: str) -> Mapping[str, Any]:
    return {
        "content": word,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }
