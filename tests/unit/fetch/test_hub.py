"""What the Hub's answers become: values, or the error that a person can act on."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.download import GitBlob, Patience, Sha256, download_all
from llava_pack.fetch.hub import HubSource
from llava_pack.fetch.remote import RemoteFile
from llava_pack.fetch.source import ListedFile, Listing
from llava_pack.format.errors import (
    AccessError,
    FetchError,
    IntegrityError,
    NetworkError,
    RecipeError,
)
from tests.support.hub import LoopbackHub, RepoSpec

WEIGHTS = bytes(range(256)) * 64
CONFIG = b'{"mm_vision_tower": "openai/clip"}'


def listed(repo_id: str, revision: str = "main") -> Listing:
    return HubSource(repo_id=repo_id, revision=revision).list()


def remotes(listing: Listing) -> list[RemoteFile]:
    assert isinstance(listing.pinned, HubSource)
    return [listing.pinned.remote_file(path, file) for path, file in listing.files.items()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    root.mkdir()
    (root / "config.json").write_bytes(CONFIG)
    (root / "pytorch_model.bin").write_bytes(WEIGHTS)
    return root


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    repos = {
        "owner/open": RepoSpec(folder=folder),
        "owner/gated": RepoSpec(folder=folder, gated=True, readers=frozenset({"hf_reader"})),
        "owner/private": RepoSpec(folder=folder, private=True, readers=frozenset({"hf_reader"})),
    }
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with LoopbackHub(repos, tokens=["hf_stranger"], cdn=True) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
        huggingface_hub.close_session()


def test_a_repository_is_resolved_to_its_commit(hub: LoopbackHub) -> None:
    repo = listed("owner/open", "main")
    assert repo.pinned.revision == hub.commit("owner/open")
    blob = hashlib.sha1(b"blob %d\0" % len(CONFIG) + CONFIG).hexdigest()  # noqa: S324 - Git's
    assert repo.files == {
        "config.json": ListedFile(len(CONFIG), GitBlob(blob)),
        "pytorch_model.bin": ListedFile(len(WEIGHTS), Sha256(hashlib.sha256(WEIGHTS).hexdigest())),
    }
    assert listed("owner/open", repo.pinned.revision) == repo


def test_files_come_through_the_downloader_with_their_promises(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    repo = listed("owner/open")
    config, weights = remotes(repo)
    assert isinstance(config.digest, GitBlob)
    assert isinstance(weights.digest, Sha256)
    assert repo.pinned.revision in config.url
    assert config.url.startswith(hub.url)
    got = download_all([config, weights], Cache(tmp_path / "cache"))
    assert got[config].path.read_bytes() == CONFIG
    assert got[weights].path.read_bytes() == WEIGHTS


def test_a_token_opens_a_gated_repository_and_stays_with_the_hub(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    repo = listed("owner/gated")
    files = remotes(repo)
    assert "hf_reader" not in repr(files)
    download_all(files, Cache(tmp_path / "cache"))
    assert hub.cdn is not None
    assert hub.cdn.asked
    assert not [asked for asked in hub.cdn.asked if "authorization" in asked.headers]
    resolved = [asked for asked in hub.asked if "/resolve/" in asked.path]
    assert {asked.headers["authorization"] for asked in resolved} == {"Bearer hf_reader"}


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("token", [None, "hf_stranger", "hf_wrong"])
def test_a_gate_that_stays_shut(monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(AccessError, match="owner/gated@main") as caught:
        listed("owner/gated")
    assert "HF_TOKEN" in caught.value.hint
    assert "hf_s" not in str(caught.value)


def test_a_gate_that_shuts_after_the_listing(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    repo = listed("owner/gated")
    monkeypatch.delenv("HF_TOKEN")
    files = remotes(repo)
    with pytest.raises(AccessError, match="Access to model owner/gated is restricted"):
        download_all(files, Cache(tmp_path / "cache"))


@pytest.mark.usefixtures("hub")
def test_a_private_repository_without_a_token() -> None:
    with pytest.raises(AccessError, match="private or does not exist"):
        listed("owner/private")


@pytest.mark.usefixtures("hub")
def test_no_such_repository() -> None:
    with pytest.raises(RecipeError, match="no such repository"):
        listed("owner/missing")


@pytest.mark.usefixtures("hub")
def test_no_such_revision() -> None:
    with pytest.raises(RecipeError, match="no such revision"):
        listed("owner/open", "v9")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("repo_id", ["a/b/c", "../x", "owner/na me"])
def test_not_a_repository_id(repo_id: str) -> None:
    with pytest.raises(RecipeError, match="not a repository id"):
        listed(repo_id)


def test_a_hub_that_cannot_be_reached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LoopbackHub({"owner/open": RepoSpec(folder=folder)}) as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.url)
    with pytest.raises(NetworkError, match="cannot be reached") as caught:
        listed("owner/open")
    assert "HF_ENDPOINT" in caught.value.hint


@pytest.mark.parametrize("gone", ["http://gone.invalid", "http://127.0.0.1:9"])
def test_a_mirror_that_sends_files_from_a_host_that_is_gone(
    hub: LoopbackHub, tmp_path: Path, gone: str
) -> None:
    hub.fault("pytorch_model.bin", headers={"Location": f"{gone}/x?X-Signature=secret"})
    weights = remotes(listed("owner/open"))[1]
    host = gone if gone.endswith(":9") else f"{gone}:80"
    with pytest.raises(NetworkError, match=f"redirects to {host}, and {host} cannot be") as caught:
        download_all([weights], Cache(tmp_path / "cache"), patience=Patience(attempts=1))
    assert hub.url in caught.value.message, "and who sent it there"
    assert "HTTPS_PROXY" in caught.value.hint
    assert "mirror that has the file itself" in caught.value.hint
    assert "secret" not in str(caught.value)


def test_a_mirror_that_sends_questions_to_a_host_that_is_gone(hub: LoopbackHub) -> None:
    hub.fault("/main", statuses=[307], headers={"Location": "http://gone.invalid/api/models/x"})
    with pytest.raises(NetworkError, match=r"redirects to http://gone\.invalid:80, and") as caught:
        listed("owner/open")
    assert "mirror" in caught.value.hint


def test_a_hub_that_is_ill(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_pack.fetch.patience.time.sleep", lambda _: None)
    hub.fault("/main", statuses=[500] * 4)
    with pytest.raises(FetchError, match="answered 500"):
        listed("owner/open")


@pytest.mark.usefixtures("hub")
def test_a_proxy_set_meanwhile_is_used(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    listed("owner/open")
    with LoopbackHub({"owner/open": RepoSpec(folder=folder)}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
        repo = listed("owner/open")
        assert proxy.asked
        huggingface_hub.close_session()
    assert remotes(repo)[0].url.startswith("http://hub.invalid/owner/open/resolve/")


def test_bytes_that_differ_from_the_listing(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.fault("config.json", corrupt_at=3)
    repo = listed("owner/open")
    with pytest.raises(IntegrityError, match=r"owner/open/config\.json: .*expected git blob"):
        download_all(
            remotes(repo),
            Cache(tmp_path / "cache"),
            patience=Patience(attempts=1),
        )
