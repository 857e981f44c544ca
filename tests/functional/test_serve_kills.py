"""A few kills of those that tests/attack/kills.py draws by the hundred."""

import tempfile
from pathlib import Path

from tests.attack.kills import kill_and_ask


def test_a_server_answers_again_after_each_of_five_kills() -> None:
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:
        hit = kill_and_ask(Path(folder), seed=30, kills=5)
    assert hit.total() >= 5
