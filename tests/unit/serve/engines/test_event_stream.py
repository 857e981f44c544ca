"""Server-sent events, however a stream is cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llava_pack.format.errors import ServeError
from llava_pack.serve.engines.event_stream import EventStream

_DATA = st.one_of(
    st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3).map(json.dumps),
    st.sampled_from(["[DONE]", "data: x", ":", "größe \U0001f600", " two  spaces"]),
)
_ENDS = st.sampled_from([b"\n\n", b"\r\n\r\n"])
_BETWEEN = st.sampled_from(
    [b"", b": ping\n\n", b"event: delta\n", b"id: 7\r\n", b"\n", b"retry: 1\n"]
)


@st.composite
def _streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    told = draw(st.lists(st.tuples(_BETWEEN, _DATA, _ENDS), max_size=8))
    stream = b"".join(between + b"data: " + data.encode() + end for between, data, end in told)
    return stream, [data.encode() for _, data, _ in told]


def _cut(stream: bytes, places: list[int]) -> list[bytes]:
    at = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[a:b] for a, b in pairwise(at)]


@given(_streams(), st.lists(st.integers(min_value=0), max_size=20))
@example((b"data: a\r\n\r\n", [b"a"]), [8, 9, 10])
def test_any_way_to_cut_a_stream_gives_the_same_events(streamed, places):
    stream, expected = streamed
    reader = EventStream()
    assert [data for piece in _cut(stream, places) for data in reader.feed(piece)] == expected


def test_lines_of_one_event_are_joined_and_an_unfinished_event_is_none():
    assert EventStream().feed(b"data: a\ndata:b\n\ndata: never ended\n") == [b"a\nb"]


@pytest.mark.parametrize(
    "pieces",
    [[b"data: " + b"x" * 60] * 3, [b"data: x\n"] * 60, [b"x" * 50, b"x" * 60]],
    ids=["a line", "an event", "no line"],
)
def test_nothing_grows_without_bound(pieces):
    reader = EventStream(most_bytes=100)
    with pytest.raises(ServeError, match="too long"):
        _ = [reader.feed(piece) for piece in pieces]
