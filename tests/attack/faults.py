"""160 calls to the system that fail in an install, revert, gc or uninstall; then the same again.

Not part of `make test`: `make test-attack` runs it; a sample is in tests/faults.
"""

import pytest

from tests.support.failing import FailingMachine
from tests.support.tries import Tries

TRIES = 160


@pytest.mark.timeout(3600)
def test_calls_that_fail(site, capfd):
    with capfd.disabled():
        tries = Tries("calls to the system that fail")
        machine = FailingMachine(site)
        tries.all(map(machine.meet, machine.draw(tries.chance, TRIES)))
