"""What one key asked, guessed by another from `cached_tokens`: a number of four digits.

    python -m pytest -n 0 tests/attack/salts.py

A victim asks with a number in the prompt. The attacker, with another key, finds it digit by digit:
ten prompts for each place, and the one of which most was not computed again has the right digit.
Without salts that takes 40 tries a number. The seed is printed; LLAVA_PACK_ATTACK_SEED repeats a
run.
"""

import os
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llava_pack.checkpoint.templates import RAW
from llava_pack.engine import environment
from llava_pack.engine.port import Finished, Message, Picture, Request
from llava_pack.engine.sampling import Sampling
from llava_pack.serve.access.sessions import StartSecret
from tests.support.checkpoints import TinyLlava, TinyTower, make_llava, make_tower

pytestmark = pytest.mark.engine
environment.prepare()
TOKENWISE, WHOLE_CHUNKS = ("bf16", "fp16"), ("fp32", "int8", "nf4")
SPEC = TinyLlava(hidden=64, inner=96, layers=2, tower=TinyTower(layers=2))
_SECRET = StartSecret("of this start")
VICTIM, ATTACKER = _SECRET.salt("0123456789ab"), _SECRET.salt("ba9876543210")
PICTURE = Picture(28, 28, random.Random(1).randbytes(28 * 28 * 3))
PLACES, SLOTS = 4, 3


def engine(folder: Path, precision: str) -> Any:
    """Return a tiny engine.

    Where an engine takes over whole chunks only, a chunk is one token here: what can be seen then
    is as fine as it is where single tokens are taken over.
    """
    from llava_pack.engine.loading.load import load_engine

    make_tower(folder / "clip-tiny", SPEC.tower)
    model = make_llava(folder / "llava-v1-tiny", SPEC)
    made: Any = load_engine(model, precision=precision, slots=SLOTS, context_tokens=512)
    if made._model.manner.exact:
        made._model.manner = made._rows._manner = replace(made._model.manner, chunk_tokens=1)
    return made


def asked(engine: Any, salt: str, text: str, *pictures: Picture) -> int:
    """Ask, and return how many tokens of the prompt were not computed again."""
    request = Request(
        request_id="r",
        messages=(Message("user", (*pictures, text)),),
        sampling=Sampling(max_tokens=1),
        conv_mode=RAW,
        salt=salt,
    )
    engine.submit(request)
    events: list[Any] = []
    while not engine.idle:
        events += engine.step()
    return next(event for event in events if isinstance(event, Finished)).usage.cached_tokens


def guessed(engine: Any, secret: str, attacker: str) -> str:
    """Return the number that the attack finds, in 40 tries; the victim asks beside each."""
    for number in range(SLOTS):
        asked(engine, f"somebody {number}", f"{number} is in the place of what was asked before")
    found = ""
    for place in range(PLACES):
        counts: dict[int, str] = {}
        for digit in "0123456789":
            asked(engine, VICTIM, f"my number is {secret}, keep it")
            guess = f"my number is {found}{digit}".ljust(13 + PLACES, "x") + ", keep it"
            counts[asked(engine, attacker, guess)] = digit
        found += counts[max(counts)]
        assert len(found) == place + 1
    return found


def found_of(engine: Any, seed: int, numbers: int, attacker: str) -> int:
    """Return how many of some drawn numbers the attack finds."""
    chance = random.Random(seed)
    secrets = [f"{chance.randrange(10**PLACES):04}" for _ in range(numbers)]
    return sum(guessed(engine, secret, attacker) == secret for secret in secrets)


@pytest.mark.parametrize(
    ("precision", "numbers"),
    [*((name, 250) for name in TOKENWISE), *((name, 50) for name in WHOLE_CHUNKS)],
)
def test_another_keys_number_is_not_found(precision: str, numbers: int, tmp_path: Path) -> None:
    seed = int(os.environ.get("LLAVA_PACK_ATTACK_SEED", time.time_ns() % 10**9))
    made = engine(tmp_path, precision)
    found = found_of(made, seed, numbers, ATTACKER)
    print(f"\nseed {seed}, {precision}: {found} of {numbers} found in {numbers * 40} tries")
    assert found <= 1, "one by luck"
