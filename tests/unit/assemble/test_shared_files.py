"""Two bundles with the same large file: the second takes no room for it, and neither hurts the other."""

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from llava_pack.assemble.shared_files import BundleFiles
from llava_pack.assemble.staging import Staging
from llava_pack.fetch.cache import Cache
from llava_pack.format.digests import READ_BYTES
from llava_pack.format.errors import IntegrityError
from llava_pack.format.progress import Silent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows copies")
WEIGHTS = os.urandom(200_000)
TOWER = "model/tower/model.safetensors"


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def built(place: Path, cache: Cache, data: bytes = WEIGHTS) -> tuple[Path, Staging]:
    """Make what a build makes of a tower, and share and note it as a build does."""
    staging = Staging(place, Silent())

    def make():
        target = staging.clean("model/tower") / "model.safetensors"
        target.write_bytes(data)
        yield staging.written(target, {"kind": "derived"})
        yield staging.text("model/tower/config.json", b"{}", {"kind": "derived"})

    staging.group("model/tower", [hashlib.sha256(data).hexdigest()], make)
    shelf = BundleFiles(cache)
    shelf.share(staging)
    shelf.note(place, staging.entries)
    return place / TOWER, staging


def test_the_second_bundle_has_the_first_ones_file(tmp_path: Path, cache: Cache) -> None:
    first, alone = built(tmp_path / "one", cache)
    second, shared = built(tmp_path / "two", cache)
    assert alone.shared == {}
    assert list(shared.shared) == [TOWER]
    if shared.shared[TOWER] == "linked":
        assert first.samefile(second)
        assert first.stat().st_mode & 0o222 == 0
    shutil.rmtree(tmp_path / "one")
    assert second.read_bytes() == WEIGHTS
    third, again = built(tmp_path / "three", cache)
    assert list(again.shared) == [TOWER], "the second is known too"
    assert third.read_bytes() == WEIGHTS


def test_nothing_is_kept_for_a_bundle_that_has_gone(tmp_path: Path, cache: Cache) -> None:
    built(tmp_path / "one", cache)
    shutil.rmtree(tmp_path / "one")
    path, staging = built(tmp_path / "two", cache)
    assert staging.shared == {}
    assert path.stat().st_nlink == 1
    assert str(tmp_path / "one") not in (cache.root / "bundle-files.json").read_text()


def test_a_file_that_somebody_edited_is_not_taken(tmp_path: Path, cache: Cache) -> None:
    first, _ = built(tmp_path / "one", cache)
    times = first.stat()
    first.write_bytes(bytes(len(WEIGHTS)))
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    second, staging = built(tmp_path / "two", cache)
    assert second.read_bytes() == WEIGHTS
    assert staging.shared == {}
    assert sorted(path.name for path in second.parent.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_a_link_in_its_place_is_not_followed(tmp_path: Path, cache: Cache) -> None:
    first, _ = built(tmp_path / "one", cache)
    first.rename(tmp_path / "mine")
    first.symlink_to(tmp_path / "mine")
    assert built(tmp_path / "two", cache)[1].shared == {}
    assert (tmp_path / "mine").stat().st_mode & 0o200


def test_a_damaged_note_is_a_missing_note(tmp_path: Path, cache: Cache) -> None:
    built(tmp_path / "one", cache)
    (cache.root / "bundle-files.json").write_text('{"places": {"a": [1]}}')
    assert built(tmp_path / "two", cache)[1].shared == {}
    assert list(built(tmp_path / "three", cache)[1].shared) == [TOWER]


def test_a_cached_file_is_hashed_where_the_bundle_has_it(tmp_path: Path, cache: Cache) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    (tmp_path / "fetched").write_bytes(WEIGHTS)
    held = cache.adopt(tmp_path / "fetched", digest)
    staging = Staging(tmp_path / "bundle", Silent())
    entry = staging.copy("wheels/a.whl", held, {}, digest=digest, cached=True)
    assert (entry.sha256, entry.mode) == (digest, 0o644)
    assert list(staging.shared) == ["wheels/a.whl"]
    copied = staging.copy("licenses/a.txt", held, {})
    assert list(staging.shared) == ["wheels/a.whl"], copied
    shutil.rmtree(tmp_path / "bundle")
    assert cache.path(digest) == held
    with pytest.raises(IntegrityError, match="expected sha256 0000"):
        Staging(tmp_path / "other", Silent()).copy("a", held, {}, digest="0" * 64, cached=True)


def test_a_file_that_is_edited_in_a_bundle_is_not_served_from_the_cache(
    tmp_path: Path, cache: Cache
) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    (tmp_path / "fetched").write_bytes(WEIGHTS)
    held = cache.adopt(tmp_path / "fetched", digest)
    staging = Staging(tmp_path / "bundle", Silent())
    staging.copy("wheels/a.whl", held, {}, cached=True)
    edited = staging.root / "wheels/a.whl"
    edited.chmod(0o644)
    edited.write_bytes(b"edited")
    found = cache.path(digest)
    assert found is None or found.read_bytes() == WEIGHTS


def test_a_resumed_build_remembers_what_it_shares(tmp_path: Path, cache: Cache) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    (tmp_path / "fetched").write_bytes(WEIGHTS)
    held = cache.adopt(tmp_path / "fetched", digest)
    for _ in range(2):
        staging = Staging(tmp_path / "bundle", Silent())
        staging.group(
            "w", [digest], lambda s=staging: [s.copy("wheels/a.whl", held, {}, cached=True)]
        )
        assert list(staging.shared) == ["wheels/a.whl"]


def test_a_resumed_build_remembers_the_chunks_of_large_files_and_of_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llava_pack.assemble.chunk_digests.CHUNK_BYTES", READ_BYTES)
    for name, size_bytes in (("small", 3), ("large", READ_BYTES + 1)):
        (tmp_path / name).write_bytes(bytes(size_bytes))
    found = []
    for _ in range(2):
        staging = Staging(tmp_path / "bundle", Silent())
        staging.group(
            "w", [], lambda s=staging: [s.copy(n, tmp_path / n, {}) for n in ("small", "large")]
        )
        found.append(staging.chunks)
    assert found[0] == found[1]
    assert [len(digests) for digests in found[0].sha256.values()] == [2]
