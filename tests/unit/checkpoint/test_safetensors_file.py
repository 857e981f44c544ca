import io
import json
import struct
import tracemalloc

import pytest

from llava_pack.checkpoint.safetensors_file import (
    SafetensorsFile,
    SafetensorsWriter,
    parse_header,
    read_header,
    render_header,
    written_order,
)
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.format.errors import CheckpointError

A = {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}
B = {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]}


def framed(header, body=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def refusal(data, size_bytes=None):
    with pytest.raises(CheckpointError) as caught:
        parse_header(io.BytesIO(data), size_bytes or len(data), subject="w.safetensors")
    return str(caught.value)


def test_entries_come_in_the_order_of_their_bytes():
    data = framed({"b": B, "a": A, "__metadata__": {"format": "pt"}}, bytes(20))
    header = parse_header(io.BytesIO(data), len(data), subject="w")
    assert [(e.name, e.dtype, e.shape, e.size_bytes) for e in header.entries] == [
        ("a", "F16", (2, 3), 12),
        ("b", "F32", (2,), 8),
    ]
    assert header.metadata == {"format": "pt"}
    assert header.entries[0].offset_bytes == header.size_bytes == len(data) - 20


def test_only_the_header_is_needed():
    data = framed({"a": A}, bytes(12))
    header = parse_header(io.BytesIO(data[:-12]), len(data), subject="w")
    assert header.entries[0].size_bytes == 12


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "0 bytes"),
        (b"\x01\x02", "2 bytes"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (framed({"a": A}, bytes(12), length=1 << 40), "claims 1099511627776"),
        (framed({"a": A}, bytes(12), length=99_999_999), "claims 99999999"),
        (framed({"a": A}, bytes(12))[:30], "truncated"),
        (framed({"a": A}, bytes(11)), "promises"),
        (framed({"a": A}, bytes(13)), "promises"),
        (framed({"a": A, "b": B}, bytes(12)), "promises"),
        (framed(b"[]"), "not a JSON object"),
        (framed(b" {}"), "not a JSON object"),
        (framed(b"{"), "not valid JSON"),
        (framed(b"{\xff}"), "not valid JSON"),
        (framed(b'{"a":1,"a":2}'), "appears twice"),
        (framed(b'{"a":' + b"[" * 100_000), "not valid JSON"),
        (framed({"__metadata__": {"format": 1}}), "metadata"),
        (framed({"__metadata__": []}), "metadata"),
        (framed({"a": []}), "no valid data_offsets"),
        (framed({"a": {**A, "data_offsets": [0]}}), "no valid data_offsets"),
        (framed({"a": {**A, "data_offsets": [-1, 11]}}), "no valid data_offsets"),
        (framed({"a": {**A, "data_offsets": [0, True]}}), "no valid data_offsets"),
        (framed({"a": {**A, "data_offsets": [0, 1 << 80]}}), "no valid data_offsets"),
        (framed({"a": {**A, "dtype": "F128"}}), "of type 'F128'"),
        (framed({"a": {**A, "dtype": ["F16"]}}), "of type"),
        (framed({"a": {**A, "shape": None}}), "invalid shape"),
        (framed({"a": {**A, "shape": [2, -3]}}), "invalid dimension"),
        (framed({"a": {**A, "shape": [2.0, 3]}}), "invalid dimension"),
        (framed({"a": {**A, "shape": [1] * 17}}), "invalid shape"),
        (framed({"a": {**A, "shape": [1 << 40, 1 << 40]}}), "more than any tensor"),
        (framed({"a": {**A, "shape": [2, 4]}}, bytes(12)), "needs 16"),
        (framed({"a": {**A, "data_offsets": [12, 0]}}, bytes(12)), "needs 12"),
        (framed({"a": A, "b": {**B, "data_offsets": [10, 18]}}, bytes(18)), "overlap"),
        (framed({"a": A, "b": {**B, "data_offsets": [13, 21]}}, bytes(21)), "gap"),
        (framed({"a": {**A, "data_offsets": [4, 16]}}, bytes(16)), "gap"),
    ],
)
def test_what_a_header_may_not_say(data, text):
    assert text in refusal(data)


def test_a_claimed_tensor_of_100_gb_takes_no_memory():
    huge = {"dtype": "F16", "shape": [50_000_000_000], "data_offsets": [0, 100_000_000_000]}
    data = framed({"a": huge}, bytes(64))
    tracemalloc.start()
    assert "promises" in refusal(data)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


def test_a_header_that_claims_100_gb_takes_no_memory():
    tracemalloc.start()
    assert "claims" in refusal(struct.pack("<Q", 100_000_000_000) + b"{", 200_000_000_000)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


def test_written_files_are_read_back(tmp_path):
    bodies = {"a": bytes(range(12)), "b": bytes(range(8)), "c": b"", "d": b"\x01"}
    entries = [
        TensorEntry("d", "BOOL", (1,)),
        TensorEntry("a", "F16", (2, 3)),
        TensorEntry("b", "F32", (2,)),
        TensorEntry("c", "F16", (0, 7)),
    ]
    path = tmp_path / "w.safetensors"
    counted, finished = [], []
    with path.open("wb") as out:
        SafetensorsWriter(out, entries, {"format": "pt", "note": "é"}).write_all(
            lambda entry: memoryview(bodies[entry.name]),
            counted.append,
            lambda entry: finished.append(entry.name),
        )
    with SafetensorsFile(path) as file:
        assert file.metadata == {"format": "pt", "note": "é"}
        assert [entry.name for entry in file.entries] == finished == ["b", "a", "c", "d"]
        assert {e.name: bytes(file.read(e)) for e in file.entries} == bodies
        assert all(e.offset_bytes % 2 == 0 for e in file.entries if e.name != "d")
        assert file.entries[0].offset_bytes % 64 == 0
        file.release(file.entries[0])
    assert sum(counted) == 21


def test_wide_types_come_first_and_equals_keep_their_order():
    entries = [
        TensorEntry(name, dtype, (1,))
        for name, dtype in [("x", "U8"), ("b", "F16"), ("a", "F16"), ("z", "I64")]
    ]
    assert [entry.name for entry in written_order(entries)] == ["z", "b", "a", "x"]


def test_a_body_of_another_size_is_refused(tmp_path):
    with (tmp_path / "w").open("wb") as out:
        writer = SafetensorsWriter(out, [TensorEntry("a", "F16", (2,))])
        with pytest.raises(CheckpointError, match="has 3 bytes, expected 4"):
            writer.write_all(lambda _: memoryview(b"abc"))


def test_views_of_other_shapes_are_written_flat(tmp_path):
    path = tmp_path / "w.safetensors"
    view = memoryview(bytes(range(8))).cast("H", (2, 2))
    with path.open("wb") as out:
        SafetensorsWriter(out, [TensorEntry("a", "U16", (2, 2))]).write_all(lambda _: view)
    assert path.read_bytes().endswith(bytes(range(8)))


def test_headers_are_the_same_every_time():
    entries = [TensorEntry("a", "F16", (2, 3)), TensorEntry("b", "F32", (1,))]
    assert render_header(entries) == render_header(iter(entries))
    assert len(render_header(entries)) % 64 == 0


def test_missing_files(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_header(tmp_path / "none.safetensors")
