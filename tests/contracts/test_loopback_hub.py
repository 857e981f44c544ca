"""The loopback Hub answers the real client as the Hub does."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.support.hub import LoopbackHub, RepoSpec

FILES = {
    "config.json": b'{"model_type": "llava"}',
    "README.md": "pictures \N{BULLET}\n".encode(),
    "pytorch_model.bin": bytes(range(256)) * 40,
    "tiny.bin": b"under a kilobyte",
    "sub/deep/notes.txt": b"nested",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture(params=[False, True], ids=["direct", "cdn"])
def hub(request: pytest.FixtureRequest, folder: Path) -> Iterator[LoopbackHub]:
    repos = {
        "owner/open": RepoSpec(folder=folder, tags=frozenset({"v1.0"})),
        "single": RepoSpec(folder=folder),
        "owner/gated": RepoSpec(folder=folder, gated=True, readers=frozenset({"hf_reader"})),
        "owner/private": RepoSpec(folder=folder, private=True, readers=frozenset({"hf_reader"})),
    }
    with LoopbackHub(repos, tokens=["hf_stranger"], cdn=request.param) as hub:
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub.url, token=False)


def git_oid(path: Path) -> str:
    return subprocess.run(
        ["git", "hash-object", "--no-filters", path], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("repo_id", ["owner/open", "single"])
def test_model_info_lists_sizes_blob_ids_and_lfs_digests(
    api: HfApi, folder: Path, repo_id: str
) -> None:
    info = api.model_info(repo_id, revision="main", files_metadata=True)
    found = {s.rfilename: s for s in info.siblings or []}
    assert set(found) == set(FILES)
    assert all(found[name].size == len(data) for name, data in FILES.items())
    large = found["pytorch_model.bin"]
    assert large.lfs is not None
    assert large.lfs.sha256 == hashlib.sha256(FILES["pytorch_model.bin"]).hexdigest()
    for name in ("config.json", "tiny.bin", "README.md"):
        assert found[name].lfs is None
        assert found[name].blob_id == git_oid(folder / name)
    assert info.gated is False


def test_a_commit_is_40_hex_digits_of_the_content(api: HfApi, folder: Path) -> None:
    before = api.model_info("owner/open").sha
    assert before is not None
    assert len(before) == 40
    assert api.model_info("owner/open", revision=before).sha == before
    assert api.model_info("owner/open", revision="v1.0").sha == before
    (folder / "config.json").write_bytes(b"{}")
    assert api.model_info("owner/open").sha != before


def test_the_tree_lists_the_same_files(api: HfApi) -> None:
    tree = list(api.list_repo_tree("owner/open", recursive=True))
    files = {e.path: e for e in tree if hasattr(e, "size")}
    assert set(files) == set(FILES)
    assert files["pytorch_model.bin"].lfs.sha256 == (
        hashlib.sha256(FILES["pytorch_model.bin"]).hexdigest()
    )
    assert {e.path for e in tree} - set(files) == {"sub", "sub/deep"}
    assert {e.path for e in api.list_repo_tree("owner/open", "sub")} == {"sub/deep"}


@pytest.mark.parametrize("name", FILES)
def test_one_file_downloads_byte_for_byte(
    hub: LoopbackHub, api: HfApi, tmp_path: Path, name: str
) -> None:
    got = hf_hub_download(
        "owner/open", name, endpoint=hub.url, cache_dir=tmp_path / "hf", token=False
    )
    assert Path(got).read_bytes() == FILES[name]
    assert hub.commit("owner/open") in got


@pytest.mark.parametrize("repo_id", ["owner/open", "single"])
def test_a_snapshot_downloads_byte_for_byte(hub: LoopbackHub, tmp_path: Path, repo_id: str) -> None:
    got = snapshot_download(repo_id, endpoint=hub.url, cache_dir=tmp_path / "hf", token=False)
    assert {n: (Path(got) / n).read_bytes() for n in FILES} == FILES


def test_a_reader_gets_a_gated_snapshot(hub: LoopbackHub, tmp_path: Path) -> None:
    got = snapshot_download(
        "owner/gated", endpoint=hub.url, cache_dir=tmp_path / "hf", token="hf_reader"
    )
    assert (Path(got) / "config.json").read_bytes() == FILES["config.json"]
    assert hub.cdn is None or not [a for a in hub.cdn.asked if "authorization" in a.headers]


@pytest.mark.parametrize(
    ("token", "error", "status"),
    [(False, GatedRepoError, 401), ("hf_stranger", GatedRepoError, 403)],
)
def test_a_gated_repository_is_listed_but_not_read(
    *, hub: LoopbackHub, tmp_path: Path, token: str | bool, error: type[HfHubHTTPError], status: int
) -> None:
    api = HfApi(endpoint=hub.url, token=token)
    assert api.model_info("owner/gated").gated == "auto"
    with pytest.raises(error) as caught:
        api.auth_check("owner/gated")
    assert caught.value.response.status_code == status
    with pytest.raises(error):
        hf_hub_download(
            "owner/gated",
            "config.json",
            endpoint=hub.url,
            cache_dir=tmp_path / "hf",
            token=token,
        )


def test_a_wrong_token_opens_nothing(hub: LoopbackHub) -> None:
    api = HfApi(endpoint=hub.url, token="hf_wrong")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as caught:
        api.model_info("owner/gated")
    assert caught.value.response.status_code == 401


@pytest.mark.parametrize(("token", "status"), [(False, 401), ("hf_stranger", 404)])
def test_a_private_repository_is_not_found(
    *, hub: LoopbackHub, token: str | bool, status: int
) -> None:
    with pytest.raises(RepositoryNotFoundError) as caught:
        HfApi(endpoint=hub.url, token=token).model_info("owner/private")
    assert caught.value.response.status_code == status
    assert HfApi(endpoint=hub.url, token="hf_reader").model_info("owner/private").private


def test_what_is_not_there(hub: LoopbackHub, api: HfApi, tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("owner/missing")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("owner/open", revision="v9")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(
            "owner/open", "none.json", endpoint=hub.url, cache_dir=tmp_path / "hf", token=False
        )


def test_the_runnable_hub_serves_until_told_to_stop(folder: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "support" / "hub.py"
    command = [sys.executable, script, "--repo", f"demo/model={folder}", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        got = hf_hub_download(
            "demo/model", "config.json", endpoint=url, cache_dir=tmp_path / "hf", token=False
        )
        huggingface_hub.close_session()
        process.terminate()
        assert process.wait(timeout=200) == 0
    assert Path(got).read_bytes() == FILES["config.json"]
