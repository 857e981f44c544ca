import errno
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pack.checkpoint.safetensors_file import SafetensorsFile
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.convert.output import whole_file
from llava_pack.convert.shards import opened, plan_shards, renamed, to_safetensors, write_file
from llava_pack.format.errors import CheckpointError, SpaceError
from tests.support.checkpoints import (
    TinyLlava,
    llava_tensors,
    make_llava,
    save_tensors,
    write_weights,
)
from tests.support.pickles import Stored


def contents(paths):
    held = {}
    for path in paths:
        if path.suffix == ".safetensors":
            with SafetensorsFile(path) as file:
                held |= {e.name: (e.dtype, e.shape, bytes(file.read(e))) for e in file.entries}
    return held


def expected(spec):
    return {
        name: (item.dtype, item.shape, item.data)
        for name, item in llava_tensors(spec).items()
        if not name.endswith("inv_freq")
    }


class Counter:
    def __init__(self) -> None:
        self.total = None
        self.bytes = 0
        self.ended = 0

    def start(self, what, total_bytes):
        self.total = total_bytes

    def advance(self, size_bytes):
        self.bytes += size_bytes

    def note(self, text):
        raise AssertionError(text)

    def done(self):
        self.ended += 1


@pytest.mark.parametrize("weights", ["bin", "safetensors"])
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_names_and_bits_stay(tmp_path, weights, shards):
    spec = TinyLlava(weights=weights, shards=shards, rotary_tables=True, dtype="BF16")
    folder = make_llava(tmp_path / "in", spec)
    (tmp_path / "out").mkdir()
    progress = Counter()
    paths = to_safetensors(folder, tmp_path / "out", progress=progress)
    assert [path.name for path in paths] == ["model.safetensors"]
    assert contents(paths) == expected(spec)
    assert progress.bytes == progress.total == sum(len(v[2]) for v in expected(spec).values())
    assert progress.ended == 1


def test_more_shards_come_with_an_index(tmp_path):
    folder = make_llava(tmp_path / "in")
    (tmp_path / "out").mkdir()
    paths = to_safetensors(folder, tmp_path / "out", shard_bytes=24_000)
    names = [path.name for path in paths]
    count = len(names) - 1
    assert names == [
        *(f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)),
        "model.safetensors.index.json",
    ]
    assert count > 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    assert all(path.stat().st_size <= 24_000 for path in paths[:-1])
    index = json.loads(paths[-1].read_text())
    assert contents(paths) == expected(TinyLlava())
    for path in paths[:-1]:
        assert {n for n, f in index["weight_map"].items() if f == path.name} == contents(
            [path]
        ).keys()
    assert index["metadata"]["total_size"] == sum(len(v[2]) for v in contents(paths).values())


def test_the_same_bytes_from_either_kind_every_time(tmp_path):
    digests = set()
    for number, weights in enumerate(["bin", "safetensors", "bin"]):
        folder = make_llava(tmp_path / f"in{number}", TinyLlava(weights=weights))
        out = tmp_path / f"out{number}"
        out.mkdir()
        paths = to_safetensors(folder, out, shard_bytes=30_000)
        digests.add(tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths))
    assert len(digests) == 1


def test_an_interrupted_conversion_is_simply_run_again(tmp_path):
    folder = make_llava(tmp_path / "in")
    (tmp_path / "out").mkdir()

    class Killed(Counter):
        def advance(self, size_bytes):
            if self.bytes > 40_000:
                raise KeyboardInterrupt
            super().advance(size_bytes)

    with pytest.raises(KeyboardInterrupt):
        to_safetensors(folder, tmp_path / "out", shard_bytes=24_000, progress=Killed())
    assert not list((tmp_path / "out").glob("*.part"))
    paths = to_safetensors(folder, tmp_path / "out", shard_bytes=24_000)
    assert contents(paths) == expected(TinyLlava())


@pytest.mark.parametrize("place", [0, 1, 17, -1])
def test_a_flipped_bit_in_a_pickle_is_found(tmp_path, place):
    data = bytes(64)
    path = save_tensors(tmp_path / "pytorch_model.bin", {"w": Stored("U8", (64,), data)})
    whole = bytearray(path.read_bytes())
    at = whole.index(data) + place % 64
    whole[at] ^= 4
    path.write_bytes(whole)
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="CRC-32"):
        to_safetensors(tmp_path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_shard_and_no_weights(tmp_path):
    folder = make_llava(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (folder / "pytorch_model-00001-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match="the shard is missing"):
        to_safetensors(folder, tmp_path / "out")
    with pytest.raises(CheckpointError, match="no weights"):
        to_safetensors(tmp_path / "out", tmp_path / "out")


def test_a_tensor_in_two_shards(tmp_path):
    tensors = llava_tensors(TinyLlava())
    write_weights(tmp_path, tensors, weights="bin", shards=2)
    save_tensors(tmp_path / "pytorch_model-00002-of-00002.bin", tensors)
    with pytest.raises(CheckpointError, match="is also in pytorch_model-00001"):
        to_safetensors(tmp_path, tmp_path)


def test_a_tensor_larger_than_a_shard():
    with pytest.raises(CheckpointError, match="the limit is 1.0 kB"):
        plan_shards([TensorEntry("w", "F16", (600,))], 1000)


def test_one_file_with_other_names(tmp_path):
    source = save_tensors(tmp_path / "mm_projector.bin", llava_tensors(TinyLlava()))
    with opened([source]) as tensors:
        write_file(tmp_path / "out.safetensors", [renamed(t, f"x.{t.entry.name}") for t in tensors])
    held = contents([tmp_path / "out.safetensors"])
    assert held == {f"x.{name}": value for name, value in expected(TinyLlava()).items()}


def test_a_full_disk(tmp_path):
    path = tmp_path / "w"
    with pytest.raises(SpaceError, match="the disk is full"), whole_file(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_another_failure_of_the_disk_is_not_called_full(tmp_path):
    with pytest.raises(OSError, match="broken"), whole_file(tmp_path / "w"):
        raise OSError(errno.EIO, "broken")
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(b"old")
    with pytest.raises(CheckpointError), whole_file(path):
        raise CheckpointError("damaged")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


CONVERT = """
import sys
from pathlib import Path
from llava_pack.convert.shards import to_safetensors
def peak():  # ru_maxrss would be that of the parent
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) * 1024
before = peak()
to_safetensors(Path(sys.argv[1]), Path(sys.argv[2]), shard_bytes=100_000_000)
print(peak() - before, "torch" in sys.modules, "numpy" in sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and madvise are Linux's")
@pytest.mark.parametrize("weights", ["bin", "safetensors"])
def test_memory_stays_near_one_tensor_without_torch(tmp_path, weights):
    """96 MB in 4 MB tensors: far less than a shard is held."""
    tensor_bytes = 4 << 20
    template = llava_tensors(TinyLlava())["model.norm.weight"]
    tensors = {
        f"model.layers.{n}.w": type(template)("F16", (1024, 2048), bytes([n]) * tensor_bytes)
        for n in range(24)
    }
    write_weights(tmp_path, tensors, weights=weights, shards=2)
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CONVERT, str(tmp_path), str(tmp_path / "out")],
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
        cwd=Path(__file__).parents[3],
    )
    grown, torch, numpy = done.stdout.split()
    assert (torch, numpy) == ("False", "False")
    assert int(grown) < 4 * tensor_bytes, f"grew by {int(grown) >> 20} MiB"
