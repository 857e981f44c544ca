"""Layers on several devices: in order, each device filled to the same part, one where it fits."""

import pytest

from llava_pack.checkpoint.footprint import spread_layers


@pytest.mark.parametrize(
    ("free", "places"),
    [
        ([100], (0,) * 8),
        ([100, 100], (0,) * 8),
        ([50, 50], (0, 0, 0, 0, 1, 1, 1, 1)),
        ([30, 90], (0, 0, 1, 1, 1, 1, 1, 1)),
        ([40, 40, 40], (0, 0, 1, 1, 1, 2, 2, 2)),
    ],
)
def test_layers_go_in_order_and_in_proportion(free, places):
    assert spread_layers(8, 10, 5, free) == places


def test_nothing_is_lost_where_nothing_fits():
    assert spread_layers(6, 10, 50, [10, 10]) == (0, 1, 1, 1, 1, 1)
