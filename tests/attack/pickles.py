"""3,000 weight files that somebody changed: nothing runs, hangs, grows, or fails but as ours.

Not part of `make test`: `make test-attack` runs it; a sample is in tests/laws.
"""

import pytest

from tests.support.mutants import mutants
from tests.support.tries import Tries

TRIES = 3_000


@pytest.mark.timeout(1200)
def test_changed_weight_files(tmp_path, capfd):
    with capfd.disabled():
        tries = Tries("changed weight files")
        tries.all(mutants(tmp_path / "pytorch_model.bin", tries.chance, TRIES))
