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
from llava_pack.engine.port import Delta, Message, Picture, Request, Sampling
from llava_pack.engine.templates import TEMPLATES, Special, render
from tests.support.families import CHATS, FAMILIES, LOGITS, MAX_TOKENS, Chat, make, rgb

pytestmark = pytest.mark.engine
environment.prepare()
GOLDENS = Path(__file__).parents[1] / "upstream" / "goldens"
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


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tmp_path_factory):
    """One family: the engine with its checkpoint, and what LLaVA's own code made of it."""
    from llava_pack.engine.load import load_engine

    family = FAMILIES[request.param]
    made = make(family, tmp_path_factory.mktemp("family"))
    engine = load_engine(
        made.model, model_base=made.base, precision="fp32", slots=1, conv_mode=family.conv_mode
    )
    return engine, golden(request.param)["chats"]


def test_pixels_are_bit_equal(case):
    engine, recorded = case
    for name, chat in CHATS.items():
        if chat.picture is None:
            continue
        processor = engine._model._processor
        picture = Picture(*chat.picture, rgb(chat.picture))
        seen = processor.tiles(picture) if processor.tiling else processor.pixels(picture)
        digest = hashlib.sha256(np.ascontiguousarray(seen, "<f4").tobytes()).hexdigest()
        assert digest == recorded[name]["pixels"], name


@pytest.mark.parametrize("name", CHATS)
def test_ids_logits_and_tokens_are_those_of_llavas_own_code(case, name):
    import torch

    from llava_pack.engine.slots import Plan

    engine, recorded = case
    want, model = recorded[name], engine._model
    sampling = Sampling(max_tokens=MAX_TOKENS)
    request = Request(request_id="a", messages=messages(CHATS[name]), sampling=sampling)
    prompt = model.write(request)
    assert collapsed(prompt.ids) == want["ids"]
    with torch.inference_mode():
        positions = torch.arange(len(prompt))[None]
        hidden = model._forward(
            model.look(prompt), positions, Plan(row=0, begin=0, end=len(prompt))
        )
        logits = model._scores(hidden)[0, :LOGITS].numpy()
    expected = np.frombuffer(base64.b64decode(want["logits"]), "<f4")
    assert np.abs(logits - expected).max() <= TOLERANCE
    engine.submit(request)
    events = []
    while not engine.idle:
        events += engine.step()
    got = [token for event in events if isinstance(event, Delta) for token in event.token_ids]
    assert got == want["tokens"]


def collapsed(ids: tuple[int, ...]) -> list[int]:
    """Return ids with each picture as one."""
    groups = itertools.groupby(ids, key=lambda token: token == -200)
    return [token for seen, group in groups for token in ([-200] if seen else group)]


@pytest.mark.parametrize("conv_mode", TEMPLATES)
def test_prompts_are_those_of_llavas_own_templates(conv_mode):
    for name, prompt in golden("prompts")["prompts"][conv_mode].items():
        assert "".join(_text(item) for item in render(messages(CHATS[name]), conv_mode)) == prompt


def _text(item: Any) -> str:
    if isinstance(item, Picture):
        return "<image>"
    return item.token if isinstance(item, Special) else item
