"""What clients are tested against: the real server with the demo model, and the pages' own words."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.support.waiting import until

MODEL = "llava-v1.5-7b"
"""What the pages call it; in the tests it is the demo model."""
ENVIRONMENTS = Path(os.environ.get("TEST_CLIENTS", ROOT / ".venv-clients"))
_MODELS = ROOT / "bundles" / "demo-model"
_LOADED = ("--precision", "fp32", "--device", "cpu", "--conv-mode", "llava_v1")
_READY_S = 600.0


def shown(page: str, heading: str) -> list[str]:
    """Return the code blocks that a how-to page has under a heading, as a person would copy them."""
    text = (ROOT / "docs" / "how-to" / page).read_text()
    [section] = re.findall(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    blocks = re.findall(r"^```\w+\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert blocks, f"{page} shows nothing under {heading}"
    return blocks


@dataclass(frozen=True)
class Server:
    """A server that runs, and a folder that is its person's home."""

    home: Path
    environment: Mapping[str, str]

    def program(self, *arguments: str) -> str:
        """Run llava-pack as that person and return what it prints."""
        command = [sys.executable, "-m", "llava_pack", *arguments]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def audited(self) -> list[dict[str, object]]:
        """Return the audit log."""
        text = (self.home / "llava-pack" / "logs" / "audit.log").read_text()
        return [json.loads(line) for line in text.splitlines()]


Serve = Callable[..., "Iterator[Server]"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo model under the name that the pages use."""
    folder = tmp_path_factory.mktemp("models") / MODEL
    shutil.copytree(_MODELS / "llava-v1-demo", folder)
    return folder


@contextmanager
def serving(
    line: str, model: Path, home: Path, *, key: str = "chat"
) -> Iterator[tuple[Server, str]]:
    """Run the `llava-pack serve` of a page with the demo model; give it and a new key."""
    words = shlex.split(line)
    assert words[:2] == ["llava-pack", "serve"], line
    environment = {**os.environ, "XDG_STATE_HOME": str(home), "PYTHONPATH": str(ROOT)}
    server = Server(home, environment)
    text = server.program("keys", "add", key)
    command = [sys.executable, "-m", "llava_pack", *words[1:], "--model-path", str(model)]
    command += ["--vision-tower", str(_MODELS / "clip-demo"), *_LOADED, "--json"]
    with running(command, environment, home / "serve.log"):
        until(lambda: '"page": ' in (home / "serve.log").read_text(), within_s=_READY_S)
        yield server, text


@contextmanager
def running(
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    log: Path,
    cwd: Path | None = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program until the block ends; what it says is in a file, and shown where it ends early."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=cwd
        )
    try:
        yield process
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
    finally:
        process.terminate()
        process.wait(timeout=60)


def answers(url: str, process: "subprocess.Popen[bytes]", log: Path, **options: object) -> None:
    """Wait until an address answers at all."""

    def tried() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        try:
            httpx.get(url, trust_env=False, timeout=5, **options)  # type: ignore[arg-type]
        except httpx.TransportError:
            return False
        return True

    until(tried, within_s=_READY_S)


@pytest.fixture(scope="module")
def plain(
    model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Mapping[str, str]]]:
    """Serve at loopback; give the server, and the environment of a person who has its key."""
    home = tmp_path_factory.mktemp("home")
    with serving("llava-pack serve", model, home) as (server, key):
        own = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
        yield server, {**own, "LLAVA_KEY": key, "HOME": str(home), "NO_COLOR": "1"}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Make the picture that the pages ask about."""
    path = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), "red").save(path)
    return path


def client(name: str) -> Path:
    """Return the folder of a client's programs."""
    return ENVIRONMENTS / name / "bin"


@contextmanager
def certificate(folder: Path) -> Iterator[Path]:
    """Make a certificate for llava.corp where a proxy's page has it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "llava.corp.crt"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(path.with_suffix(".key")), "-out", str(path)]
    command += ["-subj", "/CN=llava.corp", "-addext", "subjectAltName=DNS:llava.corp,DNS:hub.corp"]
    subprocess.run(command, check=True, capture_output=True)
    yield path
