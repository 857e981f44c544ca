"""Attacks that are tried many times: one seed, said before and after, and a line that counts."""

import os
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

SEED = "LLAVA_PACK_ATTACK_SEED"
"""Repeats what a seed gave."""
_SHOWN = 10


@dataclass
class Tries:
    """How often something was tried, and what went wrong.

    Args:
        what: the attack, as the last line names it.
    """

    what: str
    seed: int = field(
        default_factory=lambda: int(os.environ.get(SEED) or random.SystemRandom().randrange(2**32))
    )
    count: int = 0
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        _say(f"{self.what}: seed {self.seed}")

    def all(self, outcomes: Iterable[str]) -> None:
        """Count outcomes, each empty or what is wrong; raise AssertionError where one is.

        Raises:
            AssertionError: with what went wrong first, and the seed.
        """
        for outcome in outcomes:
            self.count += 1
            self.wrong += [outcome] if outcome else []
        line = f"{self.what}: {self.count} tries, {len(self.wrong)} wrong, seed {self.seed}"
        _say(line)
        assert not self.wrong, "\n".join([line, *self.wrong[:_SHOWN]])


def _say(text: str) -> None:
    """Print past whatever captures what tests print."""
    sys.__stderr__.write(f"\n{text}\n")  # type: ignore[union-attr]
    sys.__stderr__.flush()  # type: ignore[union-attr]
