"""A bundle that comes in parts, in any order, damaged, interrupted, twice or mixed up with another.

It ends in the same store, or in a need that, once it is brought, does.
"""

import hashlib
import json
import random
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_pack.crossing.carry import write_medium
from llava_pack.crossing.digest_list import parse_digest_list
from llava_pack.crossing.filling import plan_media
from llava_pack.crossing.request import read_source, wanted
from llava_pack.format.chunks import piece_name
from llava_pack.format.progress import Silent
from llava_pack.target import inventory
from llava_pack.target.contents import recognised, survey
from llava_pack.target.need import LackError, Need
from llava_pack.target.store import Store
from tests.support.bundle import BundleSimulator
from tests.support.memory_disk import memory_disk

CHUNK = 1000
WEIGHTS = random.Random(0).randbytes(7_777)
DAMAGES = ("none", "flip", "cut", "grown", "missing", "empty")


class DiedError(Exception):
    """The process dies here."""


class Dying(Silent):
    """Ends a run after so many bytes."""

    def __init__(self, most_bytes) -> None:
        self._left = most_bytes

    def advance(self, size_bytes):
        self._left -= size_bytes
        if self._left < 0:
            raise DiedError


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    BundleSimulator(weights=WEIGHTS, chunk_bytes=CHUNK).write(folder / "one")
    BundleSimulator(weights=WEIGHTS[::-1], chunk_bytes=CHUNK, release=1_800_000_000).write(
        folder / "two"
    )
    return folder


def sources(folder):
    return {name: read_source(folder / name) for name in ("one", "two")}


def damaged(path, kind, at):
    """Do to a file what media do."""
    data = path.read_bytes()
    at %= max(1, len(data))
    if kind == "missing":
        path.unlink()
    elif kind != "none":
        path.write_bytes(
            {
                "flip": data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if data else b"!",
                "cut": data[:at],
                "grown": data + b"!",
                "empty": b"",
            }[kind]
        )


def placed(folder, store, progress=None):
    """Take what a medium has, and return what is still missing."""
    listing = inventory.read_listing(folder, expect=None)
    manifest, _ = inventory.read_manifest(listing)
    contents = recognised(survey(listing), manifest)
    try:
        store.place(contents, manifest, progress or Silent(), consume=False)
    except LackError as error:
        return Need(bundle_id=listing.bundle_id, lacks=error.lacks)
    return None


def divided(source, media, draw):
    """Spread a bundle over folders: each file on some, whole or in pieces, some of them twice."""
    for folder in media:
        folder.mkdir()
        for name, data in source.head.items():
            (folder / name).write_bytes(data)
    for file in source.files():
        data = (source.root / file.path).read_bytes()
        if not file.chunks or draw.random() < 0.3:
            for folder in draw.sample(media, draw.choice([1, 1, 1, 2]) % (len(media) + 1) or 1):
                put(folder / file.path, data)
            continue
        cuts = sorted(
            {0, *draw.sample(range(len(file.chunks)), draw.randrange(min(4, len(file.chunks) + 1)))}
        )
        for first, after in zip(cuts, [*cuts[1:], len(file.chunks)], strict=True):
            start, end = file.chunks[first].offset, file.chunks[after - 1].end
            put(draw.choice(media) / piece_name(file.path, start), data[start:end])


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def run(folder, bundles, seed):
    """Carry a bundle over in a way that the seed decides, and return how often it was repaired."""
    draw = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    both = sources(bundles)
    source = both["one"]
    store = Store(folder / "prefix")
    media = [folder / f"medium-{number}" for number in range(draw.randrange(1, 6))]
    divided(source, media, draw)
    for medium in media:
        for path in sorted(path for path in medium.rglob("*") if path.is_file()):
            if path.relative_to(medium).as_posix() not in source.head and draw.random() < 0.05:
                damaged(path, draw.choice(DAMAGES), draw.randrange(10_000))
    order = draw.sample(media, len(media)) + draw.choices(media, k=draw.randrange(3))
    if draw.random() < 0.3:
        order.insert(draw.randrange(len(order)), bundles / "two")
    need = None
    for medium in order:
        if draw.random() < 0.3:
            with suppress(DiedError):
                placed(medium, store, Dying(draw.randrange(80_000)))
        found = placed(medium, store)
        need = found if medium != bundles / "two" else need
    repairs = 0
    while need is not None:
        repairs += 1
        assert repairs <= 2, "what was brought was not enough"
        brought = folder / f"repair-{repairs}"
        asked = parse_digest_list(draw.choice([need.short(), json.dumps(need.facts())]))
        plan = plan_media(
            source.listing.bundle_id,
            wanted(source.files(), asked, source.listing.bundle_id),
            [None],
            list_bytes=0,
        )
        write_medium(source, plan, 1, brought, Silent())
        loads = (load for load in plan.media[0].loads if load.name != "install.sh")
        lacks = (lack for lack in need.lacks if lack.entry.path != "install.sh")
        assert sum(one.size_bytes for one in loads) == sum(one.size_bytes for one in lacks)
        need = placed(brought, store)
    for file in source.files():
        data = store.path(file.sha256).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file.sha256
    assert not list(store.incoming.glob("*"))
    return repairs


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    with tempfile.TemporaryDirectory(dir=memory_disk(), prefix="llava-pack-") as folder:
        yield Path(folder)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_whatever_happens_to_media_the_store_ends_whole(bundles, scratch, seed):
    run(scratch / "crossing", bundles, seed)
