"""What the Hub's own client has fetched is taken by digest; what is bad there is fetched."""

import shutil
from pathlib import Path

import pytest

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.hub import HubSource
from llava_pack.fetch.hub_cache import hub_cache_root
from llava_pack.format.progress import Silent
from tests.support.hub import LoopbackHub, RepoSpec

REPO = "owner/model"
WEIGHTS = bytes(range(256)) * 50


class Notes(Silent):
    """Keeps what a person is told, and how many bytes were counted."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.counted = 0

    def note(self, text: str) -> None:
        self.lines.append(text)

    def advance(self, size_bytes: int) -> None:
        self.counted += size_bytes


@pytest.fixture
def hub(tmp_path, monkeypatch):
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "config.json").write_text('{"a": 1}')
    (repo / "model.safetensors").write_bytes(WEIGHTS)
    with LoopbackHub({REPO: RepoSpec(folder=repo)}) as site:
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
        yield site


def snapshot(hub, tmp_path):
    """Fetch with the real client, as people did before."""
    from huggingface_hub import snapshot_download

    snapshot_download(REPO, cache_dir=tmp_path / "hf", endpoint=hub.url)
    hub.asked.clear()
    return sorted((tmp_path / "hf").glob("models--*/blobs/*"), key=lambda path: path.stat().st_size)


def build(tmp_path):
    notes = Notes()
    into = tmp_path / "out"
    HubSource(repo_id=REPO).list().fetch(["*"], Cache(tmp_path / "cache"), into, notes)
    assert (into / "model.safetensors").read_bytes() == WEIGHTS
    assert (into / "config.json").read_text() == '{"a": 1}'
    assert notes.counted == len(WEIGHTS) + len('{"a": 1}')
    return notes.lines


def test_what_the_client_has_is_not_fetched_again(hub, tmp_path):
    small, large = snapshot(hub, tmp_path)
    assert build(tmp_path) == ["  12.8 kB taken from the Hugging Face cache"]
    assert not [one for one in hub.asked if "/resolve/" in one.path]
    assert (tmp_path / "out" / "model.safetensors").samefile(large)
    assert small.stat().st_nlink > 1
    shutil.rmtree(tmp_path / "out")
    assert build(tmp_path) == []  # now it is in our own


def test_on_another_disk_it_is_copied(hub, tmp_path, monkeypatch):
    _, large = snapshot(hub, tmp_path)

    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    with monkeypatch.context() as patch:
        patch.setattr("llava_pack.fetch.hub_cache.files.link", refuse)
        assert build(tmp_path)
    assert not (tmp_path / "out" / "model.safetensors").samefile(large)
    assert not [one for one in hub.asked if "/resolve/" in one.path]


@pytest.mark.parametrize("damage", ["flipped", "short", "unreadable"])
def test_what_is_bad_there_is_fetched(hub, tmp_path, damage):
    _, large = snapshot(hub, tmp_path)
    before = WEIGHTS[:-1] + b"x" if damage == "flipped" else WEIGHTS[:-1]
    large.unlink()
    if damage == "unreadable":
        large.symlink_to(tmp_path / "nowhere")
    else:
        large.write_bytes(before)
    build(tmp_path)
    assert [one.path.rpartition("/")[2] for one in hub.asked if "/resolve/" in one.path] == [
        "model.safetensors"
    ]
    if damage != "unreadable":
        assert large.read_bytes() == before  # it is somebody else's
    assert not list((tmp_path / "cache" / "parts").glob("*.taken"))


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/c"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({}, Path("~/.cache/huggingface/hub").expanduser().as_posix()),
    ],
)
def test_where_the_client_keeps_files(environ, place):
    assert hub_cache_root(environ).as_posix() == place
