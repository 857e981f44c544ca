"""ModelScope's own client against the loopback one: the stand-in behaves as the client expects.

What the client leaves on the disk is then taken as a source, as `--model DIR` takes it.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.modelscope import ModelScopeSource
from llava_pack.fetch.schemes import given_source
from tests.clients.conftest import client
from tests.support.hub import RepoSpec
from tests.support.modelscope import LoopbackModelScope

FILES = {
    "config.json": b'{"model_type": "llava"}',
    "pytorch_model.bin": bytes(range(256)) * 4000,
    "sub/notes.txt": b"nested",
}
_DOWNLOAD = """
import json, sys
from modelscope import snapshot_download
print(json.dumps(str(snapshot_download(sys.argv[1], **json.loads(sys.argv[2])))))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def site(folder: Path) -> Iterator[LoopbackModelScope]:
    repos = {
        "demo/llava-v1.5": RepoSpec(folder=folder, tags=frozenset({"v1.0"})),
        "demo/private": RepoSpec(folder=folder, private=True, readers=frozenset({"ms-reader"})),
    }
    with LoopbackModelScope(repos, cdn=True) as site:
        yield site


def downloaded(
    site: LoopbackModelScope, home: Path, repo: str, token: str = "", **options: str
) -> "subprocess.CompletedProcess[str]":
    """Let the client download a repository, as a person would."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    environment: Mapping[str, str] = {
        **own,
        "HOME": str(home),
        "MODELSCOPE_ENDPOINT": site.url,
        **({"MODELSCOPE_API_TOKEN": token} if token else {}),
    }
    command = [client("modelscope") / "python", "-c", _DOWNLOAD, repo, json.dumps(options)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def laid_out(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("revision", ["", "v1.0", "COMMIT"])
def test_it_downloads_what_the_stand_in_has(
    site: LoopbackModelScope, tmp_path: Path, revision: str
) -> None:
    named = {"COMMIT": site.commit("demo/llava-v1.5")}.get(revision, revision)
    options = {"revision": named} if named else {}
    done = downloaded(site, tmp_path / "home", "demo/llava-v1.5", **options)
    assert done.returncode == 0, done.stderr
    place = Path(json.loads(done.stdout.splitlines()[-1]))
    assert laid_out(place) == FILES
    assert site.cdn is not None
    assert site.cdn.asked, "large files come by a redirect"


def test_what_it_leaves_is_a_source(site: LoopbackModelScope, tmp_path: Path) -> None:
    done = downloaded(site, tmp_path / "home", "demo/llava-v1.5")
    place = Path(json.loads(done.stdout.splitlines()[-1]))
    assert place.parent.name == "snapshots"
    for folder in (place, place.parents[1]):
        listing = given_source(str(folder), "llava", "--model").list()
        assert listing.files.keys() == FILES.keys()
        assert listing.pinned.public == "dir:llava"


def test_it_sees_the_digests_and_refuses_other_bytes(
    site: LoopbackModelScope, tmp_path: Path
) -> None:
    assert site.cdn is not None
    site.cdn.fault("pytorch_model.bin", corrupt_at=3)
    done = downloaded(site, tmp_path / "home", "demo/llava-v1.5")
    assert done.returncode != 0
    assert "pytorch_model.bin" in done.stderr


def test_it_is_refused_as_llava_pack_is(site: LoopbackModelScope, tmp_path: Path) -> None:
    absent = downloaded(site, tmp_path / "home", "demo/none")
    assert "[404]" in absent.stderr
    shut = downloaded(site, tmp_path / "home", "demo/private", token="ms-other")
    assert "[403]" in shut.stderr
    opened = downloaded(site, tmp_path / "home", "demo/private", token="ms-reader")
    assert opened.returncode == 0, opened.stderr


def test_llava_pack_asks_what_the_client_asks(
    site: LoopbackModelScope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", site.url)
    assert downloaded(site, tmp_path / "home", "demo/llava-v1.5").returncode == 0
    theirs = {asked.path for asked in site.asked if "/models/" in asked.path}
    site.asked.clear()
    source = ModelScopeSource(repo_id="demo/llava-v1.5")
    source.list().fetch(["*"], Cache(tmp_path / "cache"), tmp_path / "out")
    assert {asked.path for asked in site.asked} == theirs
