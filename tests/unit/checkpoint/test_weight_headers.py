"""Headers of weight files of which only pieces are here: as those of the whole file."""

import pytest

from llava_pack.assemble.headers import remote_headers
from llava_pack.checkpoint.pieces import AbsentError, Pieces, Viewed
from llava_pack.checkpoint.weight_file import first_spans, header_entries, open_weights
from llava_pack.fetch.cache import Cache
from llava_pack.fetch.directory import DirectorySource
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


def test_markers_that_lie_far_from_the_beginning_are_asked_for(tmp_path):
    """As newer torch writes them; a header is then had in few rounds, and without the rest."""
    names = [f"model.layers.{number}.{'x' * 90}.weight" for number in range(2_300)]
    tensors = {name: Stored("F16", (200,), bytes(400)) for name in names}
    path = save_tensors(tmp_path / "w.bin", tensors)
    source = DirectorySource(folder=tmp_path, name="x")
    held, defects = remote_headers(source, source.list().files, Cache(tmp_path / "cache"))
    assert defects == []
    assert [*held["w.bin"]] == names
    with open_weights(path) as file:
        assert len(file.entries) == len(names)


@pytest.mark.parametrize("name", ["w.bin", "w.safetensors"])
def test_an_empty_file_is_told_by_the_list_alone(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    source = DirectorySource(folder=tmp_path, name="x")
    _, (defect,) = remote_headers(source, source.list().files, Cache(tmp_path / "cache"))
    with pytest.raises(CheckpointError) as caught, open_weights(tmp_path / name):
        pass
    assert str(defect) == str(caught.value)


def test_a_file_that_is_gone_since_it_was_listed_is_left_to_its_fetch(tmp_path):
    save_tensors(tmp_path / "w.bin", LARGE)
    source = DirectorySource(folder=tmp_path, name="x")
    files = source.list().files
    (tmp_path / "w.bin").unlink()
    assert remote_headers(source, files, Cache(tmp_path / "cache")) == ({}, [])


@pytest.mark.engine
def test_what_torch_writes_in_each_of_its_ways(tmp_path):
    """With a marker, alignment and no checksums, where each of them is a setting of torch's."""
    import torch

    tensors = {f"layer.{number}.weight": torch.ones(3, number + 1) for number in range(300)}
    wanted = {(name, "F32", tuple(one.shape)) for name, one in tensors.items()}
    for checksums in (True, False):
        torch.serialization.set_crc32_options(checksums)
        try:
            torch.save(tensors, tmp_path / "w.bin")
        finally:
            torch.serialization.set_crc32_options(True)
        entries, _ = read_in_pieces(tmp_path / "w.bin")
        assert {(one.name, one.dtype, one.shape) for one in entries} == wanted
        with open_weights(tmp_path / "w.bin") as file:
            assert {(one.name, one.dtype, one.shape) for one in file.entries} == wanted
            file.verify(file.entries[0])
