"""A thousand crossings in parts: any order, any damage, any interruption, any mixture.

    python -m pytest -n 0 tests/attack/crossings.py

The seed is printed; LLAVA_PACK_ATTACK_SEED repeats a run.
"""

from tests.laws.test_crossing_laws import bundles, run, scratch
from tests.support.tries import Tries

__all__ = ["bundles", "scratch"]
TRIES = 1_000


def test_every_way_over_ends_in_the_same_store(bundles, scratch):
    tries = Tries("a bundle in parts")

    def outcomes():
        for _ in range(TRIES):
            seed = tries.chance.randrange(2**32)
            try:
                run(scratch / "crossing", bundles, seed)
            except AssertionError as error:
                yield f"crossing {seed}: {error}"
            else:
                yield ""

    tries.all(outcomes())
