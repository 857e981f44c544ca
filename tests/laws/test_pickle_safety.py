"""Law: whatever the bytes say, a pickle gives tensors inside the file or our error; it never runs."""

import contextlib
import io
import sys
import zipfile

from hypothesis import example, given
from hypothesis import strategies as st

from llava_pack.checkpoint.pickle_file import open_pickle
from llava_pack.checkpoint.pickle_program import read_state_dict
from llava_pack.format.errors import CheckpointError
from tests.support import pickles
from tests.support.pickles import Stored

HALVES = Stored("F16", (2, 3), bytes(range(12)))
PIECES = [
    *(bytes([code]) for code in b"}]()(tu.QRbqahe0N\x88\x89\x85\x86\x87\x93\x94\x81"),
    b"\x80\x02", b"q\x00", b"h\x00", b"K\x01", b"r\xff\xff\xff\x7f",
    pickles.text("w"), pickles.text("storage"), pickles.text("0"),
    pickles.EMPTY_ORDERED_DICT, pickles.storage("F16", "0", 6),
    pickles.tensor("F16", "0", 6, (2, 3)),
    pickles.name("torch._utils", "_rebuild_tensor_v2"),
    pickles.name("torch._utils", "_rebuild_parameter"),
    pickles.name("builtins", "eval"), pickles.name("os", "system"),
    pickles.name("torch", "HalfStorage"), pickles.text("1/0"),
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=25).map(b"".join))
def test_any_program(program):
    before = set(sys.modules)
    with contextlib.suppress(CheckpointError):
        read_state_dict(program + b".", subject="w.bin")
    assert set(sys.modules) == before


@given(st.integers(0, 10_000), st.integers(0, 255))
@example(0, 0)
@example(81, 92)
def test_any_changed_byte_of_a_file(tmp_path_factory, place, value):
    path = tmp_path_factory.getbasetemp() / "changed.bin"
    data = bytearray(_whole(path.parent))
    data[place % len(data)] = value
    path.write_bytes(data)
    try:
        file = open_pickle(path)
        views = [bytes(file.read(entry)) for entry in file.entries]
    except CheckpointError:
        return
    assert [len(view) for view in views] == [entry.size_bytes for entry in file.entries]


def _whole(folder):
    path = folder / "whole.bin"
    if not path.exists():
        pickles.save(path, {"w": HALVES, "v": HALVES})
    return path.read_bytes()


@given(st.binary(max_size=400))
def test_any_bytes_in_place_of_the_pickle(tmp_path_factory, program):
    path = tmp_path_factory.getbasetemp() / "random.bin"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("random/data.pkl", program)
    path.write_bytes(out.getvalue())
    try:
        file = open_pickle(path)
    except CheckpointError:
        return
    assert file.entries == ()
