"""What a deployment remembers, and which bundles of its own it removes."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from llava_pack.deploy.record import BuiltBundle, Record, Records
from llava_pack.fetch.cache import Cache


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def _built(folder: Path, inputs: str = "1" * 64) -> BuiltBundle:
    folder.mkdir(parents=True)
    (folder / "SHA256SUMS").write_text(inputs)
    return BuiltBundle(
        inputs=inputs,
        contents="c" * 64,
        bundle_id=sha256(inputs.encode()).hexdigest(),
        folder=str(folder),
        size_bytes=5,
    )


def _record(bundle: BuiltBundle, destination: str = "ada@gpu01") -> Record:
    return Record(destination=destination, recipe="demo", bundle=bundle)


def test_what_is_written_is_read_again_by_destination_and_recipe(cache: Cache) -> None:
    kept = Records(cache)
    record = _record(_built(kept.folder("demo", "1" * 64)))
    kept.write(record)
    assert Records(cache).read("ada@gpu01", "demo") == record
    assert kept.read("ada@gpu02", "demo") is None
    assert kept.read("ada@gpu01", "other") is None


def test_a_bundle_of_the_same_inputs_serves_another_server(cache: Cache) -> None:
    kept = Records(cache)
    bundle = _built(kept.folder("demo", "1" * 64))
    kept.write(_record(bundle))
    assert kept.built("1" * 64) == bundle
    assert kept.built("2" * 64) is None
    (Path(bundle.folder) / "SHA256SUMS").write_text("changed")
    assert kept.built("1" * 64) is None


def test_a_bundle_that_no_record_names_any_more_is_removed(cache: Cache) -> None:
    kept = Records(cache)
    old = _built(kept.folder("demo", "1" * 64))
    kept.write(_record(old))
    kept.write(_record(old, "ada@gpu02"))
    new = _built(kept.folder("demo", "2" * 64), "2" * 64)
    kept.write(_record(new))
    assert Path(old.folder).is_dir(), "the other server's record still names it"
    kept.write(_record(new, "ada@gpu02"))
    assert not Path(old.folder).exists()
    assert Path(new.folder).is_dir()


def test_a_folder_that_a_person_chose_is_never_removed(cache: Cache, tmp_path: Path) -> None:
    kept = Records(cache)
    own = _built(tmp_path / "own")
    kept.write(_record(own))
    kept.write(_record(_built(kept.folder("demo", "2" * 64), "2" * 64)))
    assert Path(own.folder).is_dir()


def test_a_record_that_cannot_be_read_is_none(cache: Cache) -> None:
    kept = Records(cache)
    kept.write(_record(_built(kept.folder("demo", "1" * 64))))
    (place,) = (cache.root / "deployments").iterdir()
    assert place.stat().st_mode & 0o777 == 0o600
    place.write_text("{")
    assert kept.read("ada@gpu01", "demo") is None
    assert replace(_record(_built(cache.root / "x")), prefix="/p").prefix == "/p"
