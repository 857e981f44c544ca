"""Secrets in every place that a support bundle reads, in many shapes: none may leave."""

import os
import random

import pytest

from tests.support.planted import leaks, planted

SEED = int(os.environ.get("LLAVA_PACK_ATTACK_SEED") or random.SystemRandom().randrange(1 << 32))
ROUNDS = 10


@pytest.mark.parametrize("round_number", range(ROUNDS))
def test_no_secret_leaves_in_a_support_bundle(round_number):
    seed = SEED + round_number
    print(f"seed {seed}")
    parts, used = planted(seed)
    found = leaks(parts, used, seed)
    print(f"{len(used)} secrets in {len(parts)} documents, {len(found)} leaked")
    assert len(used) >= 200
    assert not found, f"seed {seed}: {found[:5]}"
