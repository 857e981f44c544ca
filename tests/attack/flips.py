"""1,200 flipped bits in a signed bundle, each of which `verify` and an install must refuse.

Not part of `make test`: `make test-attack` runs it; a sample is in tests/faults.
"""

import pytest

from tests.support.flips import flips, ways_into
from tests.support.keys import new_publisher
from tests.support.tries import Tries

TRIES = 1_200


@pytest.mark.timeout(3600)
def test_flipped_bits(site, tmp_path, capfd):
    publisher = new_publisher(tmp_path, "publisher")
    root = site.write("bundle")
    publisher.sign(root)
    ways = ways_into(site, publisher, "bundle")
    with capfd.disabled():
        tries = Tries("flipped bits")
        tries.all(flips(root, ways, tries.chance, TRIES))
    assert site.install("bundle").generation == 1
