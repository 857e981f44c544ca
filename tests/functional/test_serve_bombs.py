"""A sample of tests/attack/bombs.py: bombs at every door, and an honest question beside them."""

import random
import tempfile
from pathlib import Path

from tests.support.bombing import Attack
from tests.support.bombs import json_bombs, picture_bombs
from tests.support.gateway import KEY, gateway


def test_a_sample_of_bombs_hurts_nobody() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    with (
        tempfile.TemporaryDirectory(prefix="lp-") as folder,
        gateway(
            Path(folder) / "run", "--web", "--key", KEY, engine="--slots 4 --context 8192"
        ) as served,
        Attack(served) as attack,
    ):
        for name, body in dice.sample(list(json_bombs(dice)), 6):
            attack.json_at_every_door(name, body)
        for name, pictures in dice.sample(list(picture_bombs(dice)), 5):
            attack.pictures_at_every_door(name, pictures)
        verdict = attack.verdict()
    assert not verdict.wrong, str(verdict) + "\n" + "\n".join(verdict.wrong)
