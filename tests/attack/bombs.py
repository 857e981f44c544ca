"""Bombs of JSON and of pictures at every door of the real gateway: none may hurt the one beside them.

    python -m pytest -n 0 tests/attack/bombs.py

Outside the default run, which has a sample of it (tests/functional/test_serve_bombs.py). The seed is
printed; `BOMBS_SEED=N` repeats a run.
"""

import os
import random
import tempfile
from pathlib import Path

from tests.support.bombing import Attack
from tests.support.bombs import json_bombs, picture_bombs
from tests.support.gateway import KEY, gateway


def test_no_bomb_gets_through_and_nobody_beside_them_waits() -> None:
    seed = int(os.environ.get("BOMBS_SEED") or random.randrange(2**32))
    print(f"BOMBS_SEED={seed}")
    dice = random.Random(seed)
    with (
        tempfile.TemporaryDirectory(prefix="lp-") as folder,
        gateway(
            Path(folder) / "run", "--web", "--key", KEY, engine="--slots 4 --context 8192"
        ) as served,
        Attack(served) as attack,
    ):
        for name, body in json_bombs(dice):
            attack.json_at_every_door(name, body)
        for name, pictures in picture_bombs(dice):
            attack.pictures_at_every_door(name, pictures)
        verdict = attack.verdict()
    print(verdict)
    assert attack.tries >= 60
    assert not verdict.wrong, "\n".join(verdict.wrong)
