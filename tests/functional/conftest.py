"""The demo, built once for all tests that need a whole bundle."""

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from llava_pack.cli import main
from llava_pack.lock import configuration
from tests.support.demo import MODEL, TOWER, hub_recipe
from tests.support.hub import LoopbackHub, RepoSpec

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "bundles" / "demo-model"


@dataclass(frozen=True)
class Built:
    """A bundle and its id."""

    path: Path
    bundle_id: str


@pytest.fixture
def llava_pack(monkeypatch):
    """Run the command line as a person does; return what came of it."""

    def run(*arguments, env=None, cwd=None):
        command = [sys.executable, "-m", "llava_pack", *map(str, arguments)]
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=800, cwd=cwd
        )

    return run


def _pip_says(pip, environ):
    """Ask pip once for what it says in one environment: that costs as much as resolving does."""
    kept = {
        k: v for k, v in environ.items() if k.startswith(("PIP_", "HOME", "XDG_CONFIG", "PATH"))
    }
    return _said(tuple(pip), tuple(sorted(kept.items())))


@functools.cache
def _said(pip, environ, ask=configuration._pip_says):
    return ask(pip, dict(environ))


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Run the command line as `llava_pack` does, in this process: what starting Python costs is saved."""

    def run(*arguments, env=None, cwd=None):
        given = [str(argument) for argument in arguments]
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["llava-pack", *given])
            patch.setattr(configuration, "_pip_says", _pip_says)
            if cwd is not None:
                patch.chdir(cwd)
            capsys.readouterr()
            code = main(given)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(given, code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def demo_hub():
    """Serve the demo repositories as the Hub would."""
    repos = {
        MODEL: RepoSpec(folder=DEMO / "llava-v1-demo"),
        TOWER: RepoSpec(folder=DEMO / "clip-demo"),
    }
    with LoopbackHub(repos, tokens=("hf_verysecret",)) as hub:
        yield hub


@pytest.fixture(scope="session")
def demo_recipe(tmp_path_factory):
    """Give the demo's recipe with its model on the loopback Hub, as published ones are."""
    return hub_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="session")
def demo_bundle(demo_hub, demo_recipe, tmp_path_factory):
    """Build the demo bundle from the loopback Hub, as on a laptop: without torch.

    Tests must not change it.
    """
    absent = tmp_path_factory.mktemp("absent")
    for name in ("torch", "transformers", "bitsandbytes", "gradio"):
        (absent / f"{name}.py").write_text("raise ImportError('a laptop has no such thing')\n")
    out = tmp_path_factory.mktemp("demo") / "demo-bundle"
    command = [
        sys.executable,
        "-m",
        "llava_pack",
        "build",
        str(demo_recipe),
        "--out",
        str(out),
        "--json",
    ]
    command += ["--python", "target"]
    environ = {"HF_ENDPOINT": demo_hub.url, "PYTHONPATH": str(absent)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )
    assert done.returncode == 0, done.stderr
    return Built(path=out, bundle_id=json.loads(done.stdout.splitlines()[-1])["bundle_id"])
