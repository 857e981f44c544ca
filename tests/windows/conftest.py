"""A Windows PC, what it reaches over loopback, and what Linux makes of the same lock."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.demo import MODEL, TOWER, hub_recipe
from tests.support.hub import LoopbackHub, RepoSpec
from tests.support.index import LoopbackIndex
from tests.windows.run import HERE, ROOT, WORLD
from tests.windows.unix_programs import unix_programs
from tests.windows.world import DRIVE_C, GIT, OPENSSH, Windows, windows_path

DEMO = ROOT / "bundles" / "demo-model"
RELEASE = "1790000000"


@dataclass(frozen=True, kw_only=True)
class OnLinux:
    """What Linux made: a recipe's lock, its bundle, and the packages of the lock."""

    recipe: Path
    lock: Path
    bundle: Path
    packages: Path


@pytest.fixture(scope="session", autouse=True)
def programs() -> Iterator[None]:
    """Have ssh.exe and ssh-keygen.exe where Windows has them, and openssl.exe where Git puts it."""
    stand_in = WORLD / "stand_in.exe"
    compiler = ["x86_64-w64-mingw32-gcc", "-municode", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*compiler, "-o", stand_in, HERE / "stand_in.c", "-lws2_32"], check=True)
    folders = {OPENSSH: ("ssh", "ssh-keygen"), GIT: ("openssl",)}
    with unix_programs(DRIVE_C, folders, stand_in):
        yield


@pytest.fixture(scope="session")
def hub() -> Iterator[LoopbackHub]:
    repos = {
        MODEL: RepoSpec(folder=DEMO / "llava-v1-demo"),
        TOWER: RepoSpec(folder=DEMO / "clip-demo"),
    }
    with LoopbackHub(repos) as running:
        yield running


@pytest.fixture(scope="session")
def on_linux(hub, tmp_path_factory) -> OnLinux:
    """Lock and build the demo on Linux, its packages from the index that this machine has."""
    folder = tmp_path_factory.mktemp("linux")
    recipe, lock, bundle = hub_recipe(folder), folder / "demo.lock.json", folder / "bundle"
    cache = WORLD / "cache-linux"
    environ = {"HF_ENDPOINT": hub.url, "SOURCE_DATE_EPOCH": RELEASE, "LLAVA_PACK_CACHE": str(cache)}
    for arguments in (
        ["lock", recipe, "--python", "target", "--out", lock],
        ["build", recipe, "--locked", lock, "--no-record", "--out", bundle],
    ):
        command = [sys.executable, "-m", "llava_pack", *map(str, arguments)]
        subprocess.run(command, env={**os.environ, **environ}, check=True)
    packages = folder / "packages"
    packages.mkdir()
    for one in json.loads(lock.read_text())["packages"]:
        held = cache / "sha256" / one["sha256"][:2] / one["sha256"]
        (packages / one["filename"]).symlink_to(held)
    return OnLinux(recipe=recipe, lock=lock, bundle=bundle, packages=packages)


@pytest.fixture(scope="session")
def index(on_linux) -> Iterator[LoopbackIndex]:
    with LoopbackIndex([on_linux.packages]) as running:
        yield running


@pytest.fixture(scope="session")
def bare_windows(tmp_path_factory) -> Windows:
    """Give a Windows PC that reaches nothing."""
    return Windows(folder=tmp_path_factory.mktemp("windows"), environ={})


@pytest.fixture(scope="session")
def windows(hub, index, tmp_path_factory) -> Windows:
    """Give a Windows PC with a Hub and an index of packages, and nothing fetched yet."""
    environ = {
        "HF_ENDPOINT": hub.url,
        "UV_DEFAULT_INDEX": index.simple_url,
        "SOURCE_DATE_EPOCH": RELEASE,
        "LLAVA_PACK_CACHE": windows_path(tmp_path_factory.mktemp("windows-cache")),
    }
    return Windows(folder=tmp_path_factory.mktemp("windows"), environ=environ)
