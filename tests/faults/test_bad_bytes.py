"""Bytes that are not what they were: flipped on the medium, misread, or changed while being read."""

import errno
import io
import random

import pytest

from llava_pack.format.errors import IntegrityError, SignatureError
from llava_pack.format.progress import Silent
from llava_pack.format.sums import SUMS_NAME
from llava_pack.target import inventory
from llava_pack.target.contents import recognised, survey
from llava_pack.target.store import Store

POSITIONS = 1_000
WEIGHTS = "model/tiny-llava/model-00001-of-00001.safetensors"


@pytest.fixture
def tiny(site):
    site.write("tiny", weights=random.Random(1).randbytes(3_000_000))
    return site


def flip(path, bit):
    """Flip one bit of a file, at `bit` modulo its length."""
    with path.open("r+b") as stream:
        at, mask = divmod(bit % (8 * path.stat().st_size), 8)
        stream.seek(at)
        (byte,) = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte ^ 1 << mask]))


def test_every_flipped_bit_of_every_file_is_found(site):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    root = site.write("tiny")
    listing = inventory.read_listing(root, expect=site.ids["tiny"])
    manifest, _ = inventory.read_manifest(listing)
    paths = sorted(listing.sums)
    rounds = -(-POSITIONS // len(paths))
    for _ in range(rounds):
        bits = {path: draw.randrange(2**40) for path in paths}
        for path, bit in bits.items():
            flip(root / path, bit)
        with pytest.raises(IntegrityError) as placing:
            Store(site.prefix).place(
                recognised(survey(listing), manifest), manifest, Silent(), consume=False
            )
        assert f"{len(manifest.files)} of {len(manifest.files)} files differ" in str(placing.value)
        with pytest.raises(IntegrityError):
            inventory.read_manifest(listing)
        for path, bit in bits.items():
            flip(root / path, bit)
    assert rounds * len(paths) >= POSITIONS
    assert not list((site.prefix / "store/sha256").rglob("*.*"))
    for _ in range(100):
        bit = draw.randrange(2**40)
        flip(root / SUMS_NAME, bit)
        with pytest.raises(SignatureError):
            site.install("tiny")
        flip(root / SUMS_NAME, bit)
    assert site.install("tiny").generation == 1


class Misread(io.FileIO):
    """A file that is read badly: in what way, a test says."""

    def fault(self, size, data):
        return data

    def read(self, size=-1, /):
        return self.fault(size, super().read(size))


def misreading(monkeypatch, fault):
    """Have the weights of every bundle, and of the store, read with a fault."""
    right = inventory.open_file

    def opened(root, path):
        stream = right(root, path)
        if path != WEIGHTS:
            return stream
        stream.close()
        misread = Misread(root / path)
        misread.fault = lambda size, data: fault(root / path, misread, data)
        return misread

    monkeypatch.setattr(inventory, "open_file", opened)


def test_short_reads_are_no_end(tiny, monkeypatch):
    def short(_path, stream, data):
        stream.seek(-max(0, len(data) - 70_000), io.SEEK_CUR)
        return data[:70_000]

    misreading(monkeypatch, short)
    assert tiny.install("tiny").generation == 1


def eio(_path, stream, data):
    if stream.tell() > 2_000_000:
        raise OSError(errno.EIO, "Input/output error")
    return data


def changed(path, stream, data):
    if 0 < stream.tell() < 2_000_000:
        flip(path, 8 * 2_500_000)
    return data


def longer(path, stream, data):
    if 0 < stream.tell() < 2_000_000:
        with path.open("ab") as grown:
            grown.write(b"more")
    return data


def cut_off(path, stream, data):
    if 0 < stream.tell() < 2_000_000:
        with path.open("r+b") as cut:
            cut.truncate(1_500_000)
    return data


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (eio, "unreadable, expected a file that can be read, got cannot be read: Input/output"),
        (changed, "changed, expected sha256"),
        (longer, "size, expected 3000000 bytes, got 3000004 bytes"),
        (cut_off, "size, expected 3000000 bytes, got 1500000 bytes"),
    ],
)
def test_what_is_read_badly_is_not_installed(tiny, monkeypatch, fault, said):
    misreading(monkeypatch, fault)
    with pytest.raises(IntegrityError) as caught:
        tiny.install("tiny")
    assert f"{WEIGHTS}: {said}" in str(caught.value)
    assert tiny.current() is None
    monkeypatch.undo()
    tiny.write("tiny", weights=random.Random(1).randbytes(3_000_000))
    assert tiny.install("tiny").generation == 1
