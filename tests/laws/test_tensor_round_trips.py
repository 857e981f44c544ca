"""Law: what a weight file holds comes back bit for bit, whatever it went through."""

import io
import itertools
import math
import random

from hypothesis import given
from hypothesis import strategies as st

from llava_pack.checkpoint.pickle_file import open_pickle
from llava_pack.checkpoint.safetensors_file import SafetensorsWriter, parse_header
from llava_pack.checkpoint.tensors import ELEMENT_BYTES, TensorEntry, gathered
from llava_pack.convert.shards import plan_shards
from llava_pack.format.errors import CheckpointError
from tests.support import pickles
from tests.support.pickles import Stored

NAMES = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=30).filter(
    lambda name: name != "__metadata__"
)
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@st.composite
def tensors(draw, dtypes):
    names = draw(st.lists(NAMES, unique=True, max_size=8))
    made = {}
    for name in names:
        dtype, shape = draw(st.sampled_from(dtypes)), draw(SHAPES)
        size = math.prod(shape) * ELEMENT_BYTES[dtype]
        made[name] = Stored(dtype, shape, random.Random(draw(st.integers(0, 999))).randbytes(size))
    return made


@given(tensors(list(ELEMENT_BYTES)))
def test_safetensors(made):
    out = io.BytesIO()
    entries = [TensorEntry(name, item.dtype, item.shape) for name, item in made.items()]
    SafetensorsWriter(out, entries).write_all(lambda entry: memoryview(made[entry.name].data))
    data = out.getvalue()
    header = parse_header(io.BytesIO(data), len(data), subject="w")
    assert {
        e.name: Stored(e.dtype, e.shape, data[e.offset_bytes : e.offset_bytes + e.size_bytes])
        for e in header.entries
    } == made
    assert all(e.offset_bytes % ELEMENT_BYTES[e.dtype] == 0 for e in header.entries)


@given(tensors(list(pickles.STORAGE_NAMES)))
def test_pickles(tmp_path_factory, made):
    path = tmp_path_factory.mktemp("pickle") / "pytorch_model.bin"
    with open_pickle(pickles.save(path, made)) as file:
        held = {e.name: Stored(e.dtype, e.shape, bytes(file.read(e))) for e in file.entries}
    assert held == made
    assert list(held) == list(made)


@given(SHAPES.filter(math.prod), st.randoms(use_true_random=False), st.sampled_from(["U8", "F16"]))
def test_any_order_of_dimensions(shape, chance, dtype):
    """A tensor saved after `permute` is written as its elements are read one by one."""
    order = list(range(len(shape)))
    chance.shuffle(order)
    steps, step = [0] * len(shape), 1
    for axis in order:
        steps[axis] = step
        step *= shape[axis]
    size = ELEMENT_BYTES[dtype]
    cells = chance.randbytes(math.prod(shape) * size)
    entry = TensorEntry("w", dtype, shape, 0, tuple(steps))
    expected = b""
    for number in range(math.prod(shape)):
        rest, at = number, 0
        for axis in reversed(range(len(shape))):
            rest, index = divmod(rest, shape[axis])
            at += index * steps[axis]
        expected += cells[at * size : (at + 1) * size]
    assert bytes(gathered(memoryview(cells), entry)) == expected


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_with_our_error(data):
    try:
        parse_header(io.BytesIO(data), len(data), subject="w")
    except CheckpointError:
        return
    assert data[8:9] == b"{"


@given(st.lists(st.integers(0, 5000), max_size=40), st.integers(12_000, 40_000))
def test_shards_hold_every_tensor_in_order_and_no_shard_is_too_large(sizes, shard_bytes):
    entries = [TensorEntry(f"layer.{n}", "U8", (size,)) for n, size in enumerate(sizes)]
    shards = plan_shards(entries, shard_bytes)
    assert [entry for shard in shards for entry in shard] == entries
    for shard in shards:
        out = io.BytesIO()
        SafetensorsWriter(out, shard).write_all(lambda e: memoryview(bytes(e.size_bytes)))
        assert len(out.getvalue()) <= shard_bytes
    for left, right in itertools.pairwise(shards):
        held = sum(entry.size_bytes + 130 for entry in (*left, right[0]))
        assert held + 256 > shard_bytes
