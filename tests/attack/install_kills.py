"""120 kills (-9) of an install at any change that it makes; the next one completes each.

Not part of `make test`: `make test-attack` runs it; a sample is in tests/faults.
"""

import pytest

from tests.support.kills import killed_installs
from tests.support.tries import Tries

TRIES = 120


@pytest.mark.timeout(3600)
def test_killed_installs(site, capfd):
    with capfd.disabled():
        tries = Tries("killed installs")
        tries.all(killed_installs(site, tries.chance, TRIES))
