"""The plan of an earlier run is the one that is gone on with, from what its media say."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.crossing.earlier import resumed
from llava_pack.crossing.filling import plan_media
from llava_pack.crossing.media import MediumSize
from llava_pack.format.errors import UsageError
from tests.unit.crossing.test_planning_media import file, overhead

SHIFTED = MediumSize(room_bytes=1 << 30, block_bytes=4096)
"""What is free by now: a new plan would have one medium."""


def names(plan):
    return [[load.name for load in medium.loads] for medium in plan.media]


def drawn(data):
    """Return files of all kinds."""
    sizes = data.draw(st.lists(st.integers(0, 900), min_size=1, max_size=8))
    files = [file(f"model/{number}", size) for number, size in enumerate(sizes)]
    starts = [file("install.sh", data.draw(st.integers(1, 90)))] if data.draw(st.booleans()) else []
    large = [
        file("model/large", 950, wanted=data.draw(st.sampled_from([[(100, 300), (900, 950)]])))
    ]
    return [*starts, *files, *(large if data.draw(st.booleans()) else [])]


@given(st.data())
def test_any_of_its_media_say_the_same_plan(data):
    files = drawn(data)
    percent = data.draw(st.sampled_from([0, 5]))
    room = st.integers(0, 1500).map(
        lambda more: overhead(files) + more + (60_000 if percent else 0)
    )
    sizes = [
        MediumSize(room_bytes=one, block_bytes=1)
        for one in data.draw(st.lists(room, min_size=3, max_size=6))
    ]
    common = {"list_bytes": 0, "parity_percent": percent}
    try:
        plan = plan_media("ab" * 32, files, sizes, **common)
    except UsageError:
        return
    there = data.draw(st.sets(st.integers(1, len(plan.media)), min_size=1))
    volumes = ["parity/parity.par2"] if percent else []
    parts = {plan.media[one - 1].place: plan.part(one, volumes) for one in there}
    now = [SHIFTED if place in parts else size for place, size in enumerate(sizes)]
    again = resumed(files, parts, now, **common)
    assert again is not None
    assert names(again) == names(plan)
    for number in there:
        assert again.media[number - 1].place == plan.media[number - 1].place
    assert [load.digests for one in again.media for load in one.loads] == [
        load.digests for one in plan.media for load in one.loads
    ]


@pytest.fixture
def two():
    """Two files, the larger one divided, on two media, of which the first one is there."""
    files = [file("model/a", 950), file("wheels/b", 90)]
    sizes = [MediumSize(room_bytes=overhead(files) + 600, block_bytes=1)] * 2
    plan = plan_media("ab" * 32, files, sizes, list_bytes=0)
    return files, sizes, {0: plan.part(1)}


def test_other_files_need_another_plan(two):
    files, sizes, parts = two
    common = {"list_bytes": 0, "parity_percent": 0}
    assert resumed(files, parts, sizes, **common)
    for others in (
        [*files, file("wheels/c", 90)],
        files[:1],
        [file("model/a", 950, wanted=[(0, 100)]), files[1]],
        [replace(files[0], chunks=()), files[1]],
    ):
        assert resumed(others, parts, sizes, **common) is None


def test_volumes_that_were_not_asked_for_then_need_room(two):
    files, sizes, parts = two
    assert resumed(files, parts, sizes, list_bytes=0, parity_percent=5) is None
    large = [MediumSize(room_bytes=1 << 20)] * 2
    assert resumed(files, parts, large, list_bytes=0, parity_percent=5)


def test_media_that_were_exchanged_go_on_where_they_are(two):
    files, sizes, parts = two
    (part,) = parts.values()
    for swapped in ({1: part, 0: replace(part, medium=2)}, {1: part}):
        plan = resumed(files, swapped, sizes, list_bytes=0, parity_percent=0)
        assert [one.place for one in plan.media] == [1, 0]
        assert names(plan) == [sorted(each, reverse=True) for each in part.media]
