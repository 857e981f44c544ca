"""A standalone CPython: the real uv is asked, the archives are on loopback."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.download import Sha256, download_all
from llava_pack.fetch.python import find_standalone
from llava_pack.format.errors import FetchError, NetworkError
from tests.support.loopback import Answer, Asked, Loopback

TRIPLE = "x86_64-unknown-linux-gnu"
ARCHIVE = b"not a real archive, but its bytes are promised"


class Mirror(Loopback):
    """Any archive, and the list of checksums beside it where `sums` says so."""

    sums = True

    def respond(self, asked: Asked) -> Answer:
        if not asked.path.endswith("/SHA256SUMS"):
            return Answer(body=ARCHIVE, ranged=True)
        if not self.sums:
            return Answer(status=404)
        digest = hashlib.sha256(ARCHIVE).hexdigest()
        day = asked.path.split("/")[-2]
        names = [
            f"cpython-3.11.{patch}+{day}-{TRIPLE}-install_only{kind}.tar.gz"
            for patch in range(40)
            for kind in ("", "_stripped")
        ]
        lines = [f"{'0' * 64}  cpython-another.tar.gz\n", *(f"{digest}  {n}\n" for n in names)]
        return Answer(body="".join(lines).encode())


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.delenv("UV_PYTHON_DOWNLOADS_JSON_URL", raising=False)
    with Mirror() as mirror:
        monkeypatch.setenv("UV_PYTHON_INSTALL_MIRROR", mirror.url)
        yield mirror


@pytest.mark.usefixtures("mirror")
def test_the_newest_of_a_series_with_its_promise(tmp_path: Path) -> None:
    found = find_standalone("3.11", TRIPLE)
    assert re.fullmatch(r"3\.11\.\d+", found.version)
    assert found.file is not None
    assert found.file.name == f"cpython-{found.version}-{TRIPLE}.tar.gz"
    assert found.file.digest == Sha256(hashlib.sha256(ARCHIVE).hexdigest())
    [got] = download_all([found.file], Cache(tmp_path)).values()
    assert got.path.read_bytes() == ARCHIVE


def test_a_mirror_without_checksums(mirror: Mirror) -> None:
    mirror.sums = False
    found = find_standalone("3.11", TRIPLE)
    assert found.file is not None
    assert found.file.digest is None


def test_a_list_of_ones_own(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {
        "name": "cpython",
        "arch": {"family": "x86_64", "variant": None},
        "os": "linux",
        "libc": "gnu",
        "major": 3,
        "minor": 11,
        "patch": 9,
        "prerelease": "",
        "url": f"{mirror.url}/own/cpython-3.11.9-install_only.tar.gz",
        "sha256": "a" * 64,
        "variant": None,
        "build": "20260101",
    }
    (tmp_path / "own.json").write_text(json.dumps({"cpython-3.11.9-linux-x86_64-gnu": entry}))
    monkeypatch.delenv("UV_PYTHON_INSTALL_MIRROR")
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", str(tmp_path / "own.json"))
    found = find_standalone("3.11", TRIPLE)
    assert found.version == "3.11.9"
    assert found.file is not None
    assert found.file.url == entry["url"]


def test_a_host_that_cannot_be_reached(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_PYTHON_INSTALL_MIRROR", "http://mirror.invalid")
    with pytest.raises(NetworkError, match=r"mirror\.invalid.* cannot be reached"):
        find_standalone("3.11", TRIPLE)
    assert mirror.asked == []


def test_a_list_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", "http://127.0.0.1:9/list.json")
    with pytest.raises(NetworkError, match="fetching remote python downloads"):
        find_standalone("3.11", TRIPLE)


def test_a_list_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.json").write_text("[")
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", str(tmp_path / "bad.json"))
    with pytest.raises(FetchError, match="parse the JSON"):
        find_standalone("3.11", TRIPLE)


def test_a_platform_without_one() -> None:
    found = find_standalone("3.11", "sparc-sun-solaris")
    assert found.file is None
    assert "sparc-sun-solaris" in found.reason


def test_a_series_without_one() -> None:
    found = find_standalone("3.2", TRIPLE)
    assert found.file is None
    assert "3.2" in found.reason
