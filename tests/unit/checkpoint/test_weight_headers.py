"""Headers of weight files of which only pieces are here: as those of the whole file."""

import pytest

from llava_pack.checkpoint.pieces import AbsentError, Pieces, Viewed
from llava_pack.checkpoint.weight_file import first_spans, header_entries, open_weights
from llava_pack.format.errors import CheckpointError
from tests.support.checkpoints import TinyLlava, llava_tensors, save_tensors
from tests.support.pickles import Stored

MANY = {f"w{number}": Stored("F16", (16,), bytes(32)) for number in range(12_000)}
LARGE = {"large": Stored("F32", (1 << 18,), bytes(1 << 20))}


def read_in_pieces(path):
    """Return what a header tells, and how many bytes of the file were needed."""
    data = path.read_bytes()
    pieces, spans, taken = Pieces(path.name, len(data)), first_spans(path.name, len(data)), 0
    while True:
        for start, end in spans:
            pieces.put(start, data[start:end])
            taken += end - start
        try:
            return header_entries(pieces, path.name), taken
        except AbsentError as absent:
            spans = [(absent.start, absent.end)]


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
@pytest.mark.parametrize(
    "tensors",
    [llava_tensors(TinyLlava(vision_inside=True)), LARGE, LARGE | MANY],
    ids=["few", "large", "many"],
)
def test_a_header_is_that_of_the_whole_file(tmp_path, name, tensors):
    path = save_tensors(tmp_path / name, tensors)
    entries, taken = read_in_pieces(path)
    with open_weights(path) as file:
        assert {(one.name, one.dtype, one.shape) for one in entries} == {
            (one.name, one.dtype, one.shape) for one in file.entries
        }
    if tensors is LARGE:
        assert taken < path.stat().st_size / 2


def test_a_file_cut_anywhere_is_refused_in_the_words_of_the_whole_one(tmp_path):
    whole = save_tensors(tmp_path / "w.bin", {"a": Stored("F16", (4,), bytes(8))}).read_bytes()
    for size in range(1, len(whole), 7):
        path = tmp_path / "cut.bin"
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError) as expected, open_weights(path):
            pass
        with pytest.raises(CheckpointError) as found:
            read_in_pieces(path)
        assert str(found.value) == str(expected.value)


def test_a_viewed_file_is_one():
    pieces = Pieces("w", 10)
    pieces.put(0, bytes(range(10)))
    file = Viewed(pieces, 4)
    assert (file.seekable(), file.tell(), file.read(3), file.tell()) == (True, 0, b"\0\1\2", 3)
    assert file.seek(-2, 2) == 8
    assert file.read() == b"\x08\x09"
    assert file.read() == b""
    file.seek(1)
    assert file.seek(1, 1) == 2
    assert file.read() == b"\2\3\4\5"
    with pytest.raises(OSError, match="an offset of -1"):
        file.seek(-1)
