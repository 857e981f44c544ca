"""Sources as recipes write them, and their files laid out."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.directory import DirectorySource
from llava_pack.fetch.hub import HubSource
from llava_pack.fetch.schemes import SCHEMES, parse_source
from llava_pack.fetch.source import Source, select
from llava_pack.format.errors import IntegrityError, RecipeError
from tests.support.hub import LoopbackHub, RepoSpec

FILES = {
    "config.json": b"{}",
    "pytorch_model.bin": bytes(5000),
    "sub/notes.txt": b"nested",
    "evil.py": b"import os",
}
WANTED = ["*.json", "*.bin", "sub/*"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with LoopbackHub({"demo/model": RepoSpec(folder=folder)}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def laid_out(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf:demo/model", HubSource(repo_id="demo/model")),
        ("hf:demo/model@refs/pr/1", HubSource(repo_id="demo/model", revision="refs/pr/1")),
        ("hf:gpt2@v1.0", HubSource(repo_id="gpt2", revision="v1.0")),
        ("dir:/models/x", DirectorySource(folder=Path("/models/x"), name="x")),
        ("dir:x", DirectorySource(folder=Path("/recipes/x"), name="x")),
    ],
)
def test_sources(text: str, source: Source) -> None:
    assert parse_source(text, base=Path("/recipes")) == source


@pytest.mark.parametrize(
    "text", ["", "demo/model", "hf:", "dir:", "hf:a/b@", "hf:a/b/c", "hf:../b/c"]
)
def test_not_sources(text: str) -> None:
    with pytest.raises(RecipeError, match="not a source"):
        parse_source(text)


def test_every_scheme_is_the_one_that_its_sources_are_written_with(tmp_path: Path) -> None:
    for scheme, kind in SCHEMES.items():
        place = kind.FORM.removeprefix(f"{scheme}:")
        assert place != kind.FORM
        source = parse_source(kind.FORM, base=tmp_path)
        assert isinstance(source, kind)
        assert parse_source(str(source)) == source
        assert source.public.startswith(f"{scheme}:")
        assert str(tmp_path) not in source.public
        assert source.at(source.public) == source


@pytest.mark.parametrize("place", [".", "..", "/", "../x", "~/x", "a/b/x/"])
def test_a_folder_is_called_as_it_is_written_wherever_that_is(place: str) -> None:
    here, there = (parse_source(f"dir:{place}", base=Path(base)) for base in ("/a/b", "/c/d"))
    assert here.public == there.public
    assert "/home" not in here.public


def test_a_lock_of_another_repository_is_refused() -> None:
    source = parse_source("hf:demo/model@main")
    assert source.at("hf:demo/model@1234") == HubSource(repo_id="demo/model", revision="1234")
    for pinned in ("hf:other/model@1234", "hf:demo/model", "dir:model"):
        with pytest.raises(RecipeError, match="expected a commit of demo/model"):
            source.at(pinned)


@given(
    st.from_regex(r"[a-z0-9]{1,8}/[A-Za-z0-9._-]{1,8}", fullmatch=True),
    st.text("abc/.-", min_size=1),
)
def test_what_is_written_is_read_back(repo_id: str, revision: str) -> None:
    source = HubSource(repo_id=repo_id, revision=revision)
    assert parse_source(str(source)) == source


@pytest.mark.usefixtures("hub")
def test_a_hub_source(cache: Cache, tmp_path: Path, hub: LoopbackHub) -> None:
    source = parse_source("hf:demo/model@main")
    listing = source.list()
    origins = listing.fetch(WANTED, cache, tmp_path / "out")
    wanted = {name: data for name, data in FILES.items() if name != "evil.py"}
    assert laid_out(tmp_path / "out") == wanted
    assert listing.pinned.revision == hub.commit("demo/model")
    assert dict(origins["pytorch_model.bin"]) == {
        "kind": "hub",
        "repo": "demo/model",
        "commit": listing.pinned.revision,
        "path": "pytorch_model.bin",
        "digest": f"sha256:{hashlib.sha256(bytes(5000)).hexdigest()}",
    }
    assert str(origins["config.json"]["digest"]).startswith("git-blob:")
    assert not hub.served["/demo/model/resolve/main/evil.py"]
    asked = len(hub.requests("pytorch_model.bin"))
    source.list().fetch(WANTED, cache, tmp_path / "out")
    assert len(hub.requests("pytorch_model.bin")) == asked == 1


def test_a_folder(cache: Cache, tmp_path: Path, folder: Path) -> None:
    (folder / "linked.json").symlink_to(folder / "config.json")
    origins = parse_source(f"dir:{folder}").list().fetch(WANTED, cache, tmp_path / "out")
    assert not (tmp_path / "out" / "linked.json").is_symlink()
    assert laid_out(tmp_path / "out").keys() == {
        "config.json",
        "linked.json",
        "pytorch_model.bin",
        "sub/notes.txt",
    }
    assert dict(origins["sub/notes.txt"]) == {
        "kind": "directory",
        "folder": "repo",
        "path": "sub/notes.txt",
        "digest": f"sha256:{hashlib.sha256(b'nested').hexdigest()}",
    }


def test_no_such_folder(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such folder"):
        parse_source(f"dir:{tmp_path}/none").list().fetch(["*"], cache, tmp_path / "out")


@pytest.mark.usefixtures("hub")
def test_a_source_with_nothing_that_is_wanted(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"expected files like \*\.gguf, got: config\.json"):
        parse_source("hf:demo/model").list().fetch(["*.gguf"], cache, tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    [
        "../out.json",
        "/etc/x.json",
        "a/../../b.json",
        "con.json",
        ".json",
        "a\\b.json",
        "a\nb.json",
        "x./y.json",
    ],
)
def test_names_that_are_not_safe_everywhere(name: str) -> None:
    with pytest.raises(IntegrityError):
        select(["good.json", name], ["*.json"], "demo")


def test_names_that_differ_in_case_only() -> None:
    with pytest.raises(IntegrityError):
        select(["Config.json", "config.json"], ["*.json"], "demo")


def test_unsafe_names_that_nobody_wants_are_left_alone() -> None:
    assert select(["config.json", ".gitattributes"], ["*.json"], "demo") == ["config.json"]


def test_a_hub_that_names_a_path_outside(
    hub: LoopbackHub, cache: Cache, tmp_path: Path, folder: Path
) -> None:
    (folder / "aux.json").write_bytes(b"{}")
    with pytest.raises(IntegrityError, match=r"aux\.json"):
        parse_source("hf:demo/model").list().fetch(WANTED, cache, tmp_path / "out")
    assert not hub.requests("aux.json")
    assert laid_out(tmp_path / "out") == {}
