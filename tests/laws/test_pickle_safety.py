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
from tests.support.mutants import PIECES, mutants
from tests.support.pickles import Stored
from tests.support.tries import Tries

HALVES = Stored("F16", (2, 3), bytes(range(12)))
PROGRAM = pickles.state_dict({"w": pickles.tensor("F16", "0", 6, (2, 3))})
FIRST_STRIDE = PROGRAM.index(pickles.group([b"K\x03", b"K\x01"])) + 2


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


@given(st.integers(0, len(PROGRAM) - 1), st.integers(0, 255))
@example(FIRST_STRIDE, 0)
@example(FIRST_STRIDE, 1)
def test_any_changed_byte_of_a_pickle_whose_crc_was_written_anew(tmp_path_factory, place, value):
    program = bytearray(PROGRAM)
    program[place] = value
    path = tmp_path_factory.getbasetemp() / "program.bin"
    pickles.save_program(path, bytes(program), {"0": HALVES.data})
    try:
        file = open_pickle(path)
        views = [bytes(file.read(entry)) for entry in file.entries]
    except CheckpointError:
        return
    assert [len(view) for view in views] == [entry.size_bytes for entry in file.entries]


def test_a_sample_of_changed_weight_files(tmp_path):
    """The first of the thousands that tests/attack/pickles.py tries."""
    tries = Tries("changed weight files")
    tries.all(mutants(tmp_path / "pytorch_model.bin", tries.chance, 200))


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
