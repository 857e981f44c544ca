"""A bundle that comes in parts, in any order, damaged, interrupted, twice or mixed up with another.

It ends in the same store, or in a need that, once it is brought, does.
"""

import hashlib
import json
import random
import shutil
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llava_pack.crossing.carry import write_medium
from llava_pack.crossing.digest_list import parse_digest_list
from llava_pack.crossing.filling import plan_media
from llava_pack.crossing.plan import STARTS
from llava_pack.crossing.request import read_source, wanted
from llava_pack.format.chunks import piece_name
from llava_pack.format.digest_list import short_form
from llava_pack.format.errors import IntegrityError, SignatureError
from llava_pack.format.part import PART_NAME, MediumPart, render_part
from llava_pack.format.progress import Silent
from llava_pack.format.sums import MANIFEST_NAME
from llava_pack.target import need as needs
from llava_pack.target.contents import recognised, survey
from llava_pack.target.inventory import read_listing, read_manifest
from llava_pack.target.need import LackError, Need
from llava_pack.target.store import Store
from llava_pack.target.unlisted import part_at
from tests.support.bundle import BundleSimulator
from tests.support.memory_disk import memory_disk

CHUNK = 1000
WEIGHTS = random.Random(0).randbytes(7_777)
DAMAGES = ("none", "flip", "cut", "grown", "missing", "empty")


NOTHING = object()
"""What is needed is not known: no medium could be read."""


class RefusedError(Exception):
    """A medium whose list or manifest is bad."""


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


def placed(folders, store, bundle_id, progress=None):
    """Take what media have; return what is still missing, and which media were read.

    Where their list or manifest is bad, nothing can be taken: the manifest is needed first.
    """
    prefix = store.root.parent
    try:
        listing = read_listing(folders[0], expect=bundle_id, others=tuple(folders[1:]))
        kept = prefix / needs.COLLECTING / f"{bundle_id}.json"
        manifest, data = read_manifest(listing, kept=kept)
    except (SignatureError, IntegrityError):
        raise RefusedError from None
    prefix.mkdir(exist_ok=True)
    needs.begin(prefix, bundle_id, data)
    contents = recognised(survey(listing), manifest)
    try:
        store.place(contents, manifest, progress or Silent(), consume=False)
    except LackError as error:
        found = (part_at(listing, root) for root in listing.roots)
        read = needs.media_read(prefix, bundle_id, [part for part in found if part is not None])
        need = Need(bundle_id=bundle_id, lacks=error.lacks)
        needs.keep(prefix, need, read)
        return need, read
    return None, None


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
    names = [tuple(sorted(held(folder) - source.head.keys())) for folder in media]
    parts = [
        MediumPart(bundle_id=source.listing.bundle_id, medium=number, media=tuple(names))
        for number in range(1, len(media) + 1)
    ]
    for folder, part in zip(media, parts, strict=True):
        (folder / PART_NAME).write_bytes(render_part(part))
    return parts[0]


def held(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def carried(source, need, folder, draw):
    """Write a repair, and see that it holds what is needed, and starts where that is in doubt."""
    identity = source.listing.bundle_id
    manifest = source.listing.sums[MANIFEST_NAME]
    if need is NOTHING:
        asked = parse_digest_list(short_form("need", [manifest]))
    else:
        asked = parse_digest_list(draw.choice([need.short(), json.dumps(need.facts())]))
    files = wanted(source.files(), asked, identity, manifest_sha256=manifest)
    plan = plan_media(identity, files, [None], list_bytes=0)
    write_medium(source, plan, 1, folder, Silent())
    loads = plan.media[0].loads
    starts = {one.path for one in source.files() if one.path.startswith(STARTS)}
    lacking = {}
    for one in () if need is NOTHING else source.files():  # files may have a piece in common
        pieces = [one] if one.sha256 in need.digests else one.chunks
        lacks = [piece.size_bytes for piece in pieces if piece.sha256 in need.digests]
        lacking |= {one.path: sum(lacks)} if lacks else {}
    begins = {load.name for load in loads} & starts
    assert begins == (starts if need is NOTHING or lacking.keys() & starts else {"install.sh"})
    if need is not NOTHING:
        assert lacking.keys() >= {lack.entry.path for lack in need.lacks}
        rest = sum(load.size_bytes for load in loads if load.name not in starts)
        assert rest == sum(lacking[path] for path in lacking.keys() - starts)


def check_remembered(need, read, part, before=None):
    """See that no medium which was read is forgotten, and what the others hold is still to come."""
    if need is None:
        return
    known = {one.part.media: one.numbers for one in read.sets}
    for one in () if before is None else before.sets:
        assert known[one.part.media] >= one.numbers
    if part.media in known:
        lacking = {lack.entry.path for lack in need.lacks}
        owed = {at for at, names in enumerate(part.media, start=1) if lacking & {*names}}
        told = {(number, of) for number, of, *_ in read.still(need)}
        assert told >= {(at, len(part.media)) for at in owed - known[part.media]}


def run(folder, bundles, seed):
    """Carry a bundle over in a way that the seed decides, and return how often it was repaired."""
    draw = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    both = sources(bundles)
    source = both["one"]
    identity = source.listing.bundle_id
    store = Store(folder / "prefix")
    media = [folder / f"medium-{number}" for number in range(draw.randrange(1, 6))]
    part = divided(source, media, draw)
    for medium in media:
        for path in sorted(path for path in medium.rglob("*") if path.is_file()):
            if draw.random() < 0.05:
                damaged(path, draw.choice(DAMAGES), draw.randrange(10_000))
    order = [[one] for one in draw.sample(media, len(media)) + draw.choices(media, k=2)]
    order += [draw.sample(media, len(media))] * draw.randrange(2)  # all at once
    if draw.random() < 0.3:
        order.insert(draw.randrange(len(order)), [bundles / "two"])
    need = NOTHING
    repairs = 0
    for now in order:
        if now == [bundles / "two"]:
            placed(now, store, both["two"].listing.bundle_id)
            continue
        with suppress(RefusedError):
            if draw.random() < 0.3:
                with suppress(DiedError):
                    placed(now, store, identity, Dying(draw.randrange(80_000)))
            need, read = placed(now, store, identity)
            check_remembered(need, read, part)
            bad = () if need is None else read.beyond(need.lacks)
            if bad and draw.random() < 0.5:  # a repair in the middle
                repairs += 1
                carried(source, replace(need, lacks=bad), folder / f"repair-{repairs}", draw)
                need, again = placed([folder / f"repair-{repairs}"], store, identity)
                check_remembered(need, again, part, before=read)
    last = repairs
    while need is not None:
        repairs += 1
        assert repairs - last <= 3, "what was brought was not enough"
        carried(source, need, folder / f"repair-{repairs}", draw)
        need, _ = placed([folder / f"repair-{repairs}"], store, identity)
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
@example(seed=6685)  # the wheel and the installer have a piece in common
@example(seed=378397)  # and the installer alone lacks it
def test_whatever_happens_to_media_the_store_ends_whole(bundles, scratch, seed):
    run(scratch / "crossing", bundles, seed)
