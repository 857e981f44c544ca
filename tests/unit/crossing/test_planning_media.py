"""Which file goes on which medium."""

from itertools import pairwise
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.crossing.filling import plan_media
from llava_pack.crossing.media import MediumSize, parse_media
from llava_pack.crossing.plan import CarriedFile
from llava_pack.format.chunks import CHUNK_BYTES, Chunks
from llava_pack.format.errors import UsageError

CHUNK = 100


def file(path, size_bytes, wanted=()):
    digest = path.encode().hex().ljust(64, "0")[:64]
    count = -(-size_bytes // CHUNK)
    digests = tuple(f"{number:064x}" for number in range(count)) if count > 1 else ()
    chunks = Chunks(size_bytes=CHUNK, sha256={digest: digests}).spans(digest, size_bytes)
    return CarriedFile(
        path=path, size_bytes=size_bytes, sha256=digest, chunks=chunks, wanted=tuple(wanted)
    )


def planned(files, room_bytes, **more):
    size = MediumSize(room_bytes=room_bytes, block_bytes=1)
    return plan_media("ab" * 32, files, [size], list_bytes=0, more=True, **more)


def names(plan):
    return [[load.name for load in medium.loads] for medium in plan.media]


def overhead(files):
    folders = {folder for one in files for folder in PurePosixPath(one.path).parents}
    return 8192 + 2 * sum(len(one.path) + 32 for one in files) + len(folders) + 8


@pytest.mark.parametrize(
    ("text", "room_bytes", "block_bytes"),
    [
        ("4.7GB", 4_512_000_000, 4096),
        ("650 MB", 624_000_000, 4096),
        ("32gb-FAT32", 30_720_000_000, 32768),
        ("123456789", 123_456_789, 4096),
        ("8GiB", 8_246_337_208, 4096),
    ],
)
def test_a_size_is_read_as_media_are_sold(text, room_bytes, block_bytes):
    assert parse_media(text) == MediumSize(room_bytes=room_bytes, block_bytes=block_bytes)


@pytest.mark.parametrize("text", ["", "0GB", "GB", "4,7GB", "-1", "32GB-ntfs", "4.7", "9kb"])
def test_no_size(text):
    with pytest.raises(UsageError, match=r"4\.7GB"):
        parse_media(text)


def test_what_is_needed_first_comes_first_and_starts_on_every_medium():
    files = [
        file("model/a", 90),
        file("wheels/b", 90),
        file("install.sh", 2),
        file("runtime/uv", 9),
    ]
    plan = planned(files, overhead(files) + 100)
    assert names(plan) == [["install.sh", "runtime/uv"], ["install.sh", "wheels/b"],
                           ["install.sh", "model/a"]]  # fmt: skip


def test_what_starts_is_on_the_first_medium_alone_where_it_is_large():
    files = [file("install.sh", 60), file("model/a", 90)]
    assert names(planned(files, overhead(files) + 100)) == [["install.sh"], ["model/a"]]


def test_a_file_larger_than_a_medium_is_divided_into_whole_chunks():
    files = [file("model/a", 950)]
    plan = planned(files, overhead(files) + 450)
    assert names(plan) == [
        ["model/a.piece-0"], ["model/a.piece-400"], ["model/a.piece-800"],
    ]  # fmt: skip
    assert [load.parts for medium in plan.media for load in medium.loads][-1] == [100, 50]


def test_a_file_that_cannot_be_divided_is_named():
    files = [file("model/a", 95)]
    with pytest.raises(UsageError, match=r"model/a .* does not fit") as caught:
        planned(files, overhead(files) + 50)
    assert caught.value.hint == "take larger media"
    with pytest.raises(UsageError) as caught:
        planned(files, overhead(files) + 200, parity_percent=50)
    assert caught.value.hint == "take larger media, or less recovery data"


def test_a_large_file_without_chunks_is_of_an_earlier_version():
    old = CarriedFile(path="model/a", size_bytes=CHUNK_BYTES + 1, sha256="ab" * 32)
    with pytest.raises(UsageError, match="does not fit") as caught:
        planned([old], CHUNK_BYTES)
    assert "cannot be divided" in caught.value.hint


def test_a_medium_that_has_no_place_for_one_chunk():
    files = [file("model/a", 950)]
    with pytest.raises(UsageError, match="does not fit on a medium"):
        planned(files, overhead(files) + 50)


def test_wanted_chunks_alone_travel():
    files = [file("model/a", 950, wanted=[(100, 300), (900, 950)])]
    plan = planned(files, 1 << 20)
    assert names(plan) == [["model/a.piece-100", "model/a.piece-900"]]
    assert sum(load.size_bytes for load in plan.media[0].loads) == 250


def test_nothing_to_carry_needs_no_medium():
    assert planned([], 1 << 20).media == ()


@given(
    sizes=st.lists(st.integers(0, 2000), min_size=1, max_size=30),
    room=st.integers(200, 5000),
    percent=st.sampled_from([0, 5, 30]),
)
def test_everything_is_somewhere_once_and_no_medium_is_over_full(sizes, room, percent):
    files = [file(f"model/{number:02}", size) for number, size in enumerate(sizes)]
    room_bytes = overhead(files) + room + (60_000 if percent else 0)
    plan = planned(files, room_bytes, parity_percent=percent)
    for one in files:
        loads = [load for medium in plan.media for load in medium.loads if load.file == one]
        spans = sorted((load.start, load.end or one.size_bytes) for load in loads)
        assert [spans[0][0], spans[-1][1]] == [0, one.size_bytes]
        assert all(end == start for (_, end), (start, _) in pairwise(spans))
    for medium in plan.media:
        assert medium.size_bytes <= room_bytes
        assert medium.taken_bytes(1) <= room_bytes
        assert medium.content_bytes + medium.parity_bytes == medium.size_bytes


def on_places(files, rooms, **more):
    sizes = [
        MediumSize(room_bytes=overhead(files) + one, block_bytes=1) if one else
        MediumSize(room_bytes=0)
        for one in rooms
    ]  # fmt: skip
    plan = plan_media("ab" * 32, files, sizes, list_bytes=0, **more)
    return [(medium.place, [load.name for load in medium.loads]) for medium in plan.media]


def test_a_place_that_nothing_fits_on_is_passed_over_and_the_others_stay_theirs():
    files = [file("wheels/a", 90), file("wheels/b", 90)]
    assert on_places(files, [0, 100, 0, 0, 95]) == [(1, ["wheels/a"]), (4, ["wheels/b"])]


def test_what_starts_goes_on_the_first_place_with_room_for_it_and_costs_no_medium_alone():
    files = [file("install.sh", 60), file("model/a", 90)]
    assert on_places(files, [50, 200]) == [(1, ["install.sh", "model/a"])]
    assert on_places(files, [70, 99]) == [(0, ["install.sh"]), (1, ["model/a"])]
    with pytest.raises(UsageError, match=r"install\.sh .* does not fit"):
        on_places(files, [50, 55])


def test_a_large_file_is_divided_over_what_is_left_on_all_places():
    files = [file("model/a", 950)]
    pieces = [(0, ["model/a.piece-0"]), (1, ["model/a.piece-500"])]
    assert on_places(files, [500, 460]) == pieces
    with pytest.raises(UsageError, match="more than 2 media are needed"):
        on_places(files, [500, 430])


def test_a_list_that_alone_changed_goes_where_it_fits():
    assert on_places([], [0, 100], changed=True) == [(1, [])]
