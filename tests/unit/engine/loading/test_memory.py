"""Slots and context come from the memory that is left."""

import pytest

from llava_pack.engine.loading.memory import Room, plan_room
from llava_pack.format.errors import SpaceError

GIB = 1 << 30
TOKEN_7B = 524_288  # keys and values of one token of a 7B model in 16 bits


@pytest.mark.parametrize(
    ("free", "room"),
    [
        (40 * GIB, Room(8, 4096)),
        (10 * GIB, Room(4, 4096)),
        (3 * GIB, Room(1, 4096)),
        (1 * GIB, Room(1, 1843)),
    ],
)
def test_slots_give_way_before_length(free, room):
    assert plan_room(free, TOKEN_7B, 8, 4096) == room


def test_no_room_for_one_request():
    with pytest.raises(SpaceError, match="not enough memory"):
        plan_room(64 << 20, TOKEN_7B, 8, 4096)


def test_room_never_exceeds_what_was_asked():
    assert plan_room(1 << 50, 1, 3, 100) == Room(3, 100)
