"""A host that runs install.sh as a black box, and bundles to give it."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from llava_pack.cli import main
from llava_pack.target.programs import SEARCH_PATH
from tests.support import bundle as simulator
from tests.support.bundle import BASE_PYTHON, BundleSimulator
from tests.support.memory_disk import memory_disk


@dataclass(frozen=True)
class Medium:
    """A bundle on a medium, and the id that its card says."""

    root: Path
    id: str


@dataclass
class Host:
    """A machine with one prefix."""

    prefix: Path

    def install_sh(
        self,
        medium,
        *arguments,
        shell="sh",
        body="",
        expect=True,
        env=None,
        cwd="/",
        wrap=(),
        script=None,
    ):
        """Run install.sh; it goes on in /bin/sh, or where `body` names another shell, in that."""
        script = script or simulator.CHECKOUT / "installers" / "install.sh"
        command = [*wrap, *(body or shell).split(), str(script)]
        command += ["--bundle", str(medium.root), "--prefix", str(self.prefix)]
        command += ["--expect", medium.id] if expect else []
        path = f"{Path(BASE_PYTHON).parent}:{os.environ['PATH']}"
        if body:
            command.insert(command.index(str(script)) + 1, "--in-a-clean-environment")
            env = {"CALLER_PATH": path, "LC_ALL": "C", "PATH": SEARCH_PATH, **(env or {})}
        return subprocess.run(
            [*command, *arguments],
            env={"PATH": path, "HOME": "/nonexistent", **(env or {})},
            cwd=cwd,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def current(self, recipe="tiny"):
        link = self.prefix / "models" / recipe / "current"
        return int(link.readlink().name) if link.is_symlink() else None

    def run(self, *arguments):
        program = self.prefix / "bin" / "llava-pack"
        command = [str(program), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class Served:
    """A stub server of a host, as a person starts it."""

    def __init__(self, host, *arguments) -> None:
        self.host = host
        self.process = subprocess.Popen(
            [str(host.prefix / "bin/llava-pack"), "serve", "--really", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.until(self.answer), "it never answered"

    @property
    def pid(self):
        return json.loads((self.host.prefix / "run/stub.json").read_text())["pid"]

    def answer(self):
        try:
            port = json.loads((self.host.prefix / "run/stub.json").read_text())["port"]
            with socket.create_connection(("127.0.0.1", port), timeout=200) as connection:
                return int(connection.recv(64))
        except (OSError, ValueError):
            return None

    def until(self, true, within_s=400):
        end_s = time.monotonic() + within_s
        while not true() and time.monotonic() < end_s:
            time.sleep(0.02)
        return true()

    def stop(self):
        for pid in {self.process.pid, self.pid if self.answer() else self.process.pid}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


@dataclass(frozen=True)
class Ended:
    """How a command of the CLI ended."""

    code: int
    out: str
    err: str

    @property
    def document(self):
        (line,) = self.out.splitlines()
        return json.loads(line)


@pytest.fixture
def tmp_path(tmp_path):
    """Give memory for a disk where there is some."""
    if (disk := memory_disk()) is None:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=disk, prefix="llava-pack-") as folder:
        yield Path(folder)


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path / "prefix")


@pytest.fixture
def medium(tmp_path):
    """Write a bundle; keywords are fields of BundleSimulator, `name` is the folder's."""

    def write(name="bundle", **fields):
        root = tmp_path / "media" / name
        return Medium(root, BundleSimulator(**fields).write(root))

    return write


@pytest.fixture
def cli(capsys):
    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return run


@pytest.fixture
def two(host, medium):
    """Install two versions of one model."""
    media = [medium("old"), medium("new", weights=b"newer weights", release=1_800_000_000)]
    for each in media:
        assert host.install_sh(each).returncode == 0
    return media
