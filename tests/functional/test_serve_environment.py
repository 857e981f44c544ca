"""`bin/llava-pack serve` in the environment of a machine that has seen a lot."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llava_pack.target import launcher
from tests.support.checkpoints import make_llava, make_tower
from tests.support.ports import quiet_ports

pytestmark = pytest.mark.engine


@pytest.fixture
def prefix() -> Iterator[Path]:
    """Give a prefix whose program is the real one, and whose Python is the one of the tests."""
    with tempfile.TemporaryDirectory(prefix="lp-") as folder:
        root = Path(folder)
        python = root / "models/tiny/generations/1/venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        (root / "models/tiny/current").symlink_to("generations/1")
        (root / "bin").mkdir()
        (root / "bin/llava-pack").write_text(launcher.text("tiny", ["GONE"]))
        (root / "bin/llava-pack").chmod(0o755)
        (root / launcher.PLACE).write_text(f"{os.path.realpath(root)}\n")
        make_tower(root / "clip-tiny")
        make_llava(root / "llava-v1-tiny")
        yield root


@pytest.fixture
def nasty(prefix: Path) -> dict[str, str]:
    libraries = prefix / "old libraries"
    libraries.mkdir()
    for name in ("libstdc++.so.6", "libgomp.so.1", "libcudart.so.12", "libssl.so.3"):
        (libraries / name).write_bytes(b"of another world")
    return {
        "HOME": str(prefix),
        "PATH": "/nowhere:/usr/bin:/bin",
        "ALL_PROXY": "socks5://127.0.0.1:9",
        "https_proxy": "nonsense://[::1",
        "no_proxy": "fd00::/8,[::1]:80,10.0.0.0/8",
        "SSL_CERT_FILE": "/nowhere/ca.pem",
        "LD_LIBRARY_PATH": str(libraries),
        "PYTHONPATH": str(libraries),
        "PYTHONHOME": str(libraries),
        "HF_HOME": "/nowhere/hf",
        "HF_HUB_OFFLINE": "0",
        "CUDA_HOME": "/nowhere/cuda",
        "UV_INDEX_URL": "http://127.0.0.1:9/",
    }


def _command(prefix: Path, *more: str) -> list[str]:
    (port,) = quiet_ports(1)
    words = ["--model-path", str(prefix / "llava-v1-tiny"), "--precision", "fp32", "--no-web"]
    return [str(prefix / "bin/llava-pack"), "serve", *words, "--port", str(port), "--json", *more]


def test_it_serves_and_says_what_it_left_out(prefix: Path, nasty: dict[str, str]) -> None:
    command = _command(prefix, "--detach")
    done = subprocess.run(command, env=nasty, capture_output=True, text=True, check=False)
    try:
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        headers = {"Authorization": f"Bearer {told['token']}"}
        answer = httpx.get(f"{told['url']}/v1/models", headers=headers, trust_env=False)
        assert answer.status_code == 200
        names = "ALL_PROXY, CUDA_HOME, HF_HOME, HF_HUB_OFFLINE, LD_LIBRARY_PATH, SSL_CERT_FILE"
        line = f"left out of the environment: {names}, https_proxy, no_proxy; --keep-env NAME"
        assert line in done.stderr
        assert "! to be kept in the environment, and not set: GONE\n" in done.stderr
        health = subprocess.run(
            [command[0], "health"], env=nasty, capture_output=True, text=True, check=False
        )
        assert f"environment: left out of the environment: {names}" in health.stderr
    finally:
        stop = [command[0], "stop"]
        subprocess.run(stop, env=nasty, check=False, capture_output=True)


@pytest.mark.parametrize("more", [["--keep-env", "LD_LIBRARY_PATH"], []])
def test_what_is_kept_does_its_harm(prefix: Path, nasty: dict[str, str], more: list[str]) -> None:
    """The troublemakers are real ones: a rule against what harms nobody would prove nothing."""
    if not more:
        text = launcher.text("tiny", ["LD_LIBRARY_PATH"])
        (prefix / "bin/llava-pack").write_text(text)
    kept = subprocess.run(
        _command(prefix, *more), env=nasty, capture_output=True,
        text=True, check=False, timeout=300,
    )  # fmt: skip
    assert kept.returncode != 0
    assert "LD_LIBRARY_PATH" not in kept.stderr.partition("left out of the environment: ")[2]
