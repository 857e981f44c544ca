"""What ModelScope's answers become: values, or the error that a person can act on."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.download import Patience, Sha256, download_all
from llava_pack.fetch.modelscope import ModelScopeSource
from llava_pack.fetch.pieces import Span
from llava_pack.fetch.remote import RemoteFile
from llava_pack.fetch.schemes import parse_source
from llava_pack.fetch.source import ListedFile, Listing
from llava_pack.format.errors import (
    AccessError,
    FetchError,
    IntegrityError,
    NetworkError,
    RecipeError,
)
from tests.support.hub import RepoSpec
from tests.support.loopback import Answer, Asked
from tests.support.modelscope import LoopbackModelScope

WEIGHTS = bytes(range(256)) * 64
FILES = {"config.json": b"{}", "pytorch_model.bin": WEIGHTS, "sub/notes.txt": b"nested"}
QUICK = Patience(attempts=3, backoff_s=0.0)


def listed(repo_id: str, revision: str = "master") -> Listing:
    return ModelScopeSource(repo_id=repo_id, revision=revision).list()


def remotes(listing: Listing) -> dict[str, RemoteFile]:
    assert isinstance(listing.pinned, ModelScopeSource)
    return {path: listing.pinned.remote_file(path, file) for path, file in listing.files.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackModelScope]:
    repos = {
        "owner/open": RepoSpec(folder=folder, tags=frozenset({"v1.0"})),
        "owner/gated": RepoSpec(folder=folder, gated=True, readers=frozenset({"ms-reader"})),
        "owner/private": RepoSpec(folder=folder, private=True, readers=frozenset({"ms-reader"})),
    }
    for name in ("MODELSCOPE_API_TOKEN", "MODELSCOPE_DOMAIN"):
        monkeypatch.delenv(name, raising=False)
    with LoopbackModelScope(repos, cdn=True) as site:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", site.url)
        yield site


def test_a_repository_is_resolved_to_its_commit(site: LoopbackModelScope) -> None:
    listing = listed("owner/open")
    assert listing.pinned.revision == site.commit("owner/open")
    assert listing.files == {
        path: ListedFile(len(data), Sha256(hashlib.sha256(data).hexdigest()))
        for path, data in FILES.items()
    }
    assert listed("owner/open", listing.pinned.revision) == listing
    assert listed("owner/open", "v1.0") == listing


def test_how_it_is_written(site: LoopbackModelScope) -> None:
    source = parse_source("ms:owner/open")
    commit = site.commit("owner/open")
    assert str(source) == "ms:owner/open@master"
    pinned = source.list().pinned
    assert pinned.public == f"ms:owner/open@{commit}"
    assert pinned.purl == (
        f"pkg:generic/owner/open@{commit}"
        f"?vcs_url=git%2Bhttps://www.modelscope.cn/owner/open.git%40{commit}"
    )
    assert source.at(pinned.public) == pinned
    with pytest.raises(RecipeError, match="expected a commit of owner/open"):
        source.at(f"ms:owner/other@{commit}")


@pytest.mark.parametrize("text", ["ms:", "ms:alone", "ms:a/b/c", "ms:../b", "ms:a/b@", "ms:a/.."])
def test_not_a_repository(text: str) -> None:
    with pytest.raises(RecipeError, match="not a source"):
        parse_source(text)


def test_files_come_through_the_downloader_with_their_promises(
    site: LoopbackModelScope, tmp_path: Path
) -> None:
    origins = listed("owner/open").fetch(["*"], Cache(tmp_path / "cache"), tmp_path / "out")
    for path, data in FILES.items():
        assert (tmp_path / "out" / path).read_bytes() == data
    assert dict(origins["pytorch_model.bin"]) == {
        "kind": "modelscope",
        "repo": "owner/open",
        "commit": site.commit("owner/open"),
        "path": "pytorch_model.bin",
        "digest": f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}",
    }
    asked = [one.query for one in site.asked if one.path.endswith("/repo")]
    assert all(f"Revision={site.commit('owner/open')}" in query for query in asked)
    assert site.cdn is not None
    assert site.cdn.asked, "weights come from the other host"


def test_an_interrupted_download_resumes(site: LoopbackModelScope, tmp_path: Path) -> None:
    assert site.cdn is not None
    site.cdn.fault("pytorch_model.bin", cut_bytes=[5000])
    weights = remotes(listed("owner/open"))["pytorch_model.bin"]
    [got] = download_all([weights], Cache(tmp_path / "cache"), patience=QUICK).values()
    assert got.path.read_bytes() == WEIGHTS
    ranges = [asked.headers.get("range") for asked in site.cdn.asked]
    assert ranges == [None, "bytes=5000-"]


def test_pieces_of_files(site: LoopbackModelScope, tmp_path: Path) -> None:
    listing = listed("owner/open")
    span = Span("pytorch_model.bin", 256, 512)
    pieces = listing.pinned.pieces(listing.files, [span], Cache(tmp_path / "cache"))
    assert pieces == {span: bytes(range(256))}
    assert site.cdn is not None
    assert sum(site.cdn.served.values()) == 256


def test_bytes_that_differ_from_the_listing(site: LoopbackModelScope, tmp_path: Path) -> None:
    assert site.cdn is not None
    site.cdn.fault("pytorch_model.bin", corrupt_at=3)
    weights = remotes(listed("owner/open"))["pytorch_model.bin"]
    with pytest.raises(IntegrityError, match=r"owner/open/pytorch_model\.bin: .*expected sha256"):
        download_all([weights], Cache(tmp_path / "cache"), patience=Patience(attempts=1))


def test_a_token_opens_a_repository_and_stays_with_modelscope(
    site: LoopbackModelScope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-reader")
    listing = listed("owner/private")
    assert "ms-reader" not in repr(remotes(listing))
    listing.fetch(["*"], Cache(tmp_path / "cache"), tmp_path / "out")
    for asked in site.asked:
        assert asked.headers["authorization"] == "Bearer ms-reader"
        assert asked.headers["cookie"] == "m_session_id=ms-reader"
    assert site.cdn is not None
    assert site.cdn.asked
    assert not [one for one in site.cdn.asked if {"authorization", "cookie"} & set(one.headers)]


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("repo_id", "token"),
    [("owner/gated", None), ("owner/gated", "ms-other"), ("owner/private", "x")],
)
def test_a_gate_that_stays_shut(
    monkeypatch: pytest.MonkeyPatch, repo_id: str, token: str | None
) -> None:
    if token:
        monkeypatch.setenv("MODELSCOPE_API_TOKEN", token)
    with pytest.raises(AccessError, match=f"{repo_id}@master.*access denied") as caught:
        listed(repo_id)
    assert "MODELSCOPE_API_TOKEN" in caught.value.hint


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("repo_id", ["owner/missing", "owner/private"])
def test_no_such_repository(repo_id: str) -> None:
    with pytest.raises(RecipeError, match="no such repository") as caught:
        listed(repo_id)
    assert "MODELSCOPE_API_TOKEN" in caught.value.hint


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("revision", ["main", "v9"])
def test_no_such_revision(revision: str) -> None:
    with pytest.raises(RecipeError, match="no such revision") as caught:
        listed("owner/open", revision)
    assert "master" in caught.value.hint


def test_a_head_that_nothing_names_is_not_guessed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repos = {"owner/open": RepoSpec(folder=folder)}
    with LoopbackModelScope(repos, nameless=True) as site:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", site.url)
        with pytest.raises(FetchError, match="does not name the commit") as caught:
            listed("owner/open")
        assert "ms:owner/open@COMMIT" in caught.value.hint
        commit = site.commit("owner/open")
        assert listed("owner/open", commit).pinned.revision == commit


@pytest.mark.parametrize("wrong", [{"Sha256": ""}, {"Size": None}, {"Sha256": "0" * 40}])
def test_a_listing_without_promises(site: LoopbackModelScope, wrong: dict[str, object]) -> None:
    site.invalid = wrong
    with pytest.raises(FetchError, match="file listing is invalid"):
        listed("owner/open")


def test_a_listing_that_was_cut(site: LoopbackModelScope, folder: Path) -> None:
    for number in range(3000):
        (folder / f"{number}.txt").touch()
    with pytest.raises(FetchError, match="cuts a list there"):
        listed("owner/open")
    assert len(site.asked) == 1


def test_modelscope_cannot_be_reached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LoopbackModelScope({"owner/open": RepoSpec(folder=folder)}) as gone:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", gone.url)
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1:\d+ cannot be reached"):
        listed("owner/open")


def test_modelscope_is_ill(site: LoopbackModelScope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_pack.fetch.patience.time.sleep", lambda _: None)
    site.fault("/repo/files", statuses=[500] * 4)
    with pytest.raises(FetchError, match="answered 500"):
        listed("owner/open")


class Altered(LoopbackModelScope):
    """A ModelScope behind which something changes the answers."""

    def __init__(self, folder: Path, **committer: object) -> None:
        super().__init__({"owner/open": RepoSpec(folder=folder)})
        self.committer = committer

    def respond(self, asked: Asked) -> Answer:
        answer = super().respond(asked)
        if not self.committer:
            return replace(answer, headers={"Content-Encoding": "gzip"})
        assert isinstance(answer.body, bytes)
        page = json.loads(answer.body)
        page["Data"] |= self.committer
        return replace(answer, body=json.dumps(page).encode())


@pytest.mark.parametrize(
    ("committer", "said"),
    [({}, "was interrupted"), ({"LatestCommitter": ["x"]}, "does not name the commit")],
)
def test_an_answer_that_was_altered(
    folder: Path, monkeypatch: pytest.MonkeyPatch, committer: dict[str, object], said: str
) -> None:
    with Altered(folder, **committer) as site:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", site.url)
        with pytest.raises(FetchError, match=said):
            listed("owner/open")


class Page(LoopbackModelScope):
    """A login page of some proxy, whatever is asked."""

    def respond(self, asked: Asked) -> Answer:
        return Answer(body=b"<html>log in first</html>")


def test_something_else_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with Page({}) as page:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", page.url)
        with pytest.raises(FetchError, match="does not answer as ModelScope does") as caught:
            listed("owner/open")
    assert "MODELSCOPE_ENDPOINT" in caught.value.hint


def test_the_older_name_of_the_endpoint(
    site: LoopbackModelScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODELSCOPE_ENDPOINT")
    monkeypatch.setenv("MODELSCOPE_DOMAIN", site.url)
    assert listed("owner/open").pinned.revision == site.commit("owner/open")
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "mirror.invalid/")
    [first, *_] = remotes(
        Listing(pinned=ModelScopeSource(repo_id="a/b"), files={"x": ListedFile(1)})
    ).values()
    assert first.url == "https://mirror.invalid/api/v1/models/a/b/repo?Revision=master&FilePath=x"
