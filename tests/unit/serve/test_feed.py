"""What supervisor and gateway tell each other: the same on both sides, or an error."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.engine.port import EngineInfo
from llava_pack.engine.stats import WAIT_S, Histogram, Stats, Work
from llava_pack.format.errors import ServeError
from llava_pack.serve.access.audit import AuditPlan
from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.engines.client import EngineAddress
from llava_pack.serve.feed import (
    BEAT_BYTES,
    BULLETIN_BYTES,
    LEFT_AT_ONCE,
    Beat,
    Bulletin,
    News,
    Start,
    from_line,
    lines,
    to_line,
)
from llava_pack.serve.port import Status, Vitals

_INFO = EngineInfo(
    model="m", precision="nf4", device="cuda", context_tokens=4096, slots=8, conv_mode="llava_v1",
    image_tokens=576,
)  # fmt: skip
_NEWS = News(
    engine=3,
    name="m",
    address=EngineAddress(socket=Path("/tmp/x/engine-3.sock")),
    status=Status(phase="loading", detail="weights", done_bytes=1, total_bytes=2),
    info=_INFO,
    vitals=Vitals(steps=1, running=2, waiting=3, stalled_s=0.5, bound_s=60.0),
    stats=Stats(steps=9, work=Work(kv_tokens=7), first_token_s=Histogram(WAIT_S).with_value(0.3)),
    restarts=2,
)
_START = Start(
    policy=AccessPolicy(secrets=("a", "b"), host_names=frozenset({"h", "g"}), any_address=True),
    web=True,
    bundle_id=None,
    queue=256,
    restarts=0,
    log=None,
    audit=AuditPlan(to="file", path="/a"),
    fence="required",
    home=Path("/h"),
    left={"0123456789ab": (1.5, 1e15, -3.0)},
    picture_root=Path("/pictures"),
)
_BEAT = Beat(
    seen=4, listening=True, in_flight={0: 1, 3: 0}, reached=(0, 3), left={"a": (1.0, 2.0, 3.0)}
)


@pytest.mark.parametrize(
    "message", [_START, Bulletin(number=1, models=(_NEWS, _NEWS), ending=True), _BEAT]
)
def test_a_message_is_the_same_on_the_other_side(message: Start | Bulletin | Beat) -> None:
    line = to_line(message)
    assert line.count(b"\n") == 1
    assert from_line(type(message), line) == message


def test_a_bulletin_of_hundreds_of_models_fits_its_line() -> None:
    assert len(to_line(Bulletin(number=1, models=(_NEWS,) * 500))) < BULLETIN_BYTES / 2


def test_a_beat_for_hundreds_of_engines_fits_its_line() -> None:
    engines = range(10**6, 10**6 + 1000)
    left = {f"{number:012x}": (1e6 + 1 / 3, 1e15, -1e6 / 3) for number in range(LEFT_AT_ONCE)}
    beat = Beat(in_flight=dict.fromkeys(engines, 10**4), reached=tuple(engines), left=left)
    assert len(to_line(beat)) < BEAT_BYTES


def _changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    fields = json.loads(to_line(_BEAT))
    change(fields)
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"[]", b"null", b"\xff", b"[" * 50_000, b"1",
        _changed(lambda f: f.update(left={"a": [10**400]})), _changed(lambda f: f.update(left=[])),
        _changed(lambda f: f.update(seen="4")), _changed(lambda f: f.update(seen=True)),
        _changed(lambda f: f.update(seen=1.5)), _changed(lambda f: f.update(in_flight=[])),
        _changed(lambda f: f.update(in_flight={"x": 1})), _changed(lambda f: f.pop("reached")),
        _changed(lambda f: f.update(reached=[[1]])), _changed(lambda f: f.update(more=1)),
    ],
)  # fmt: skip
def test_what_a_gateway_in_wrong_hands_sends_is_refused(line: bytes) -> None:
    with pytest.raises(ServeError):
        from_line(Beat, line)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
_FIELDS = st.fixed_dictionaries(
    {"seen": _JSON, "listening": _JSON, "in_flight": _JSON, "reached": _JSON}
)


@given(_JSON | _FIELDS)
def test_any_json_is_a_beat_or_refused(value: Any) -> None:
    try:
        beat = from_line(Beat, json.dumps(value).encode())
    except ServeError:
        return
    assert type(beat.seen) is int
    assert all(type(number) is int for pair in beat.in_flight.items() for number in pair)


def _read(sent: bytes, limit: int) -> list[bytes]:
    async def read() -> list[bytes]:
        reader = asyncio.StreamReader(limit=limit)
        reader.feed_data(sent)
        reader.feed_eof()
        return [line async for line in lines(reader)]

    return asyncio.run(read())


def test_lines_are_read_to_the_last_whole_one() -> None:
    assert _read(b"a\nb\nc", 100) == [b"a\n", b"b\n"]


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(ServeError, match="too long"):
        _read(b"x" * 1000, 100)
