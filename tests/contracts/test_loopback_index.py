"""The loopback index answers real installers, and its wheels come through our downloader."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from uv import find_uv_bin

from llava_pack.fetch.cache import Cache
from llava_pack.fetch.download import RemoteFile, Sha256, download_all
from tests.support.index import LoopbackIndex
from tests.support.wheels import write_wheel

UV_COMPILE = ("--no-config", "pip", "compile", "-", "--no-cache", "--generate-hashes")
PIP_DOWNLOAD = (sys.executable, "-m", "pip", "download", "--no-cache-dir", "-q", "larger")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, "small_one", "1.0")
    write_wheel(folder, "small_one", "2.0")
    write_wheel(folder, "larger", "1.0", "small-one>=1.5")
    return folder


def clean_environment(tmp_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_"))}
    return {**kept, "HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}


def test_uv_resolves_from_it(wheels: Path, tmp_path: Path) -> None:
    with LoopbackIndex([wheels]) as index:
        done = subprocess.run(
            [
                find_uv_bin(),
                *UV_COMPILE,
                "--python",
                sys.executable,
                "--index-url",
                index.simple_url,
            ],
            input="larger\n",
            capture_output=True,
            text=True,
            check=False,
            env=clean_environment(tmp_path),
            cwd=tmp_path,
        )
        assert index.requests(".metadata")
        assert not index.requests(".whl")
    assert done.returncode == 0, done.stderr
    pinned = re.findall(r"^([\w-]+==[\d.]+)", done.stdout, re.MULTILINE)
    assert pinned == ["larger==1.0", "small-one==2.0"]
    newest = wheels / "small_one-2.0-py3-none-any.whl"
    assert hashlib.sha256(newest.read_bytes()).hexdigest() in done.stdout


def test_pip_downloads_from_it(wheels: Path, tmp_path: Path) -> None:
    with LoopbackIndex([wheels]) as index:
        done = subprocess.run(
            [*PIP_DOWNLOAD, "--index-url", index.simple_url, "--dest", tmp_path / "got"],
            capture_output=True,
            text=True,
            check=False,
            env=clean_environment(tmp_path),
        )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "got").iterdir()} == {
        "larger-1.0-py3-none-any.whl",
        "small_one-2.0-py3-none-any.whl",
    }


def test_our_downloader_resumes_a_wheel(wheels: Path, tmp_path: Path) -> None:
    wheel = wheels / "larger-1.0-py3-none-any.whl"
    data = wheel.read_bytes()
    with LoopbackIndex([wheels]) as index:
        index.fault(wheel.name, cut_bytes=[100])
        file = RemoteFile(
            url=f"{index.url}/files/{wheel.name}",
            name=wheel.name,
            size_bytes=len(data),
            digest=Sha256(hashlib.sha256(data).hexdigest()),
        )
        [got] = download_all([file], Cache(tmp_path / "cache")).values()
        assert index.served[f"/files/{wheel.name}"] == len(data)
    assert got.path.read_bytes() == data
