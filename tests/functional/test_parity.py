"""Every family answers as LLaVA's own code does: recorded pixels, logits and tokens.

The goldens were recorded by tests/upstream/record_goldens.py in LLaVA's own environment.
"""

import base64
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_pack.engine import environment
from llava_pack.engine.inputs.picture_decoder import decode_picture
from llava_pack.engine.inputs.templates import Special, render
from llava_pack.engine.port import Delta, Message, Picture, Request
from llava_pack.engine.sampling import Sampling
from tests.support.families import (
    CHATS,
    FAMILIES,
    LOGITS,
    MAX_TOKENS,
    Chat,
    Family,
    Made,
    make,
    rgb,
)

pytestmark = pytest.mark.engine
environment.prepare()
GOLDENS = Path(__file__).parents[1] / "upstream" / "goldens"
DEMO = Path(__file__).parents[2] / "bundles" / "demo-model"
TOLERANCE = 1e-5


def golden(name: str) -> Any:
    return json.loads((GOLDENS / f"{name}.json").read_bytes())


def messages(chat: Chat) -> tuple[Message, ...]:
    """Return the chat's turns, its picture with the first."""
    turns: list[Message] = []
    for number, text in enumerate(chat.turns):
        seen = (Picture(*chat.picture, rgb(chat.picture)),) if chat.picture and not number else ()
        turns.append(Message(("user", "assistant")[number % 2], (*seen, text)))
    return tuple(turns)


@pytest.mark.parametrize("name", FAMILIES)
def test_as_llavas_own_code_answers(name, tmp_path):
    family = FAMILIES[name]
    check(family, make(family, tmp_path), golden(name)["chats"])


def check(family: Family, made: Made, recorded: Any) -> None:
    """Hold pixels, ids, logits and greedy tokens of every chat against what was recorded."""
    from llava_pack.engine.loading.load import load_engine

    engine: Any = load_engine(
        made.model, model_base=made.base, precision="fp32", slots=1, conv_mode=family.conv_mode
    )
    for name, chat in family.asked.items():
        want, prompt = recorded[name], engine._model.write(request(chat))
        assert collapsed(prompt.ids) == want["ids"], name
        assert [digest(engine, picture) for picture in prompt.pictures] == (
            [want["pixels"]] if chat.picture else []
        ), name
        assert np.abs(logits(engine, chat) - recorded_logits(want)).max() <= TOLERANCE, name
        assert answer(engine, request(chat)) == want["tokens"], name


def request(chat: Chat) -> Request:
    sampling = Sampling(max_tokens=MAX_TOKENS)
    return Request(request_id="a", messages=messages(chat), sampling=sampling)


def digest(engine: Any, picture: Picture) -> str:
    """Return the SHA-256 of what the tower gets of a picture."""
    processor = engine._model._vision.processor
    tiles = processor.tiles(picture)
    seen = tiles if processor.rules.tiling else tiles[0]
    return hashlib.sha256(np.ascontiguousarray(seen, "<f4").tobytes()).hexdigest()


def logits(engine: Any, chat: Chat) -> Any:
    """Return the first logits of a prompt's last position."""
    import torch

    from llava_pack.engine.batching.kv_cache import Prefill

    model = engine._model
    prompt = model.write(request(chat))
    with torch.inference_mode():
        positions = torch.arange(len(prompt))[None]
        plan = Prefill(0, 0, len(prompt))
        (seen,) = model.look([prompt], [0])
        hidden = model._forward(seen.chunk(0, len(prompt)), positions, plan)
        return model._scores(hidden)[0, :LOGITS].numpy()


def recorded_logits(chat: Any) -> Any:
    return np.frombuffer(base64.b64decode(chat["logits"]), "<f4")


def answer(engine: Any, asked: Request) -> list[int]:
    """Return the engine's tokens."""
    engine.submit(asked)
    events = []
    while not engine.idle:
        events += engine.step()
    return [token for event in events if isinstance(event, Delta) for token in event.token_ids]


def collapsed(ids: tuple[int, ...]) -> list[int]:
    """Return ids with each picture as one."""
    groups = itertools.groupby(ids, key=lambda token: token == -200)
    return [token for seen, group in groups for token in ([-200] if seen else group)]


def test_the_demo_model_answers_as_in_llavas_own_code():
    from llava_pack.engine.loading.load import load_engine

    engine: Any = load_engine(
        DEMO / "llava-v1-demo",
        vision_tower=DEMO / "clip-demo",
        precision="fp32",
        slots=1,
        conv_mode="llava_v1",
    )
    recorded = golden("demo")
    sampling = Sampling(max_tokens=recorded["max_new_tokens"])
    for chat in recorded["chats"]:
        turns: list[Message] = []
        seen = (decode_picture(base64.b64decode(chat["png"])),) if chat["png"] else ()
        for turn in chat["turns"]:
            turns.append(Message("user", (*seen, turn["question"])))
            asked = Request(request_id="a", messages=tuple(turns), sampling=sampling)
            assert collapsed(engine._model.write(asked).ids) == turn["input_ids"], chat["name"]
            assert answer(engine, asked) == turn["output_ids"], chat["name"]
            turns.append(Message("assistant", (turn["text"],)))
            seen = ()


@pytest.mark.parametrize("conv_mode", golden("prompts")["prompts"])
def test_prompts_are_those_of_llavas_own_templates(conv_mode):
    for name, prompt in golden("prompts")["prompts"][conv_mode].items():
        assert "".join(_text(item) for item in render(messages(CHATS[name]), conv_mode)) == prompt


def _text(item: Any) -> str:
    if isinstance(item, Picture):
        return "<image>"
    return item.token if isinstance(item, Special) else item
