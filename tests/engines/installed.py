"""An engine's bundle, installed and served: what the tests of real engines ask and kill."""

import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-engines"
MODEL = "llava-v1-demo"
KNOWN = tomllib.loads((ROOT / "bundles" / "demo.toml").read_text())["known_answers"]
_READY_S = 900.0
_ANSWER_S = 300.0


@dataclass(frozen=True)
class Installed:
    """An installation of one engine's bundle, by an account with nothing but this folder."""

    engine: str
    home: Path

    @property
    def bundle(self) -> Path:
        return FOLDER / "bundles" / self.engine

    @property
    def prefix(self) -> Path:
        return self.home / "prefix"

    @property
    def environment(self) -> dict[str, str]:
        """Return what a person's shell would have, on a machine where nothing was set up."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            "LANG": "C.UTF-8",
        }

    def install(self) -> None:
        """Install anew, with the bundle's own installer and its smoke test."""
        shutil.rmtree(self.home, ignore_errors=True)
        (self.home / "tmp").mkdir(parents=True)
        expected = hashlib.sha256((self.bundle / "SHA256SUMS").read_bytes()).hexdigest()
        command = ["sh", str(self.bundle / "install.sh"), "--bundle", str(self.bundle)]
        command += ["--expect", expected, "--prefix", str(self.prefix)]
        subprocess.run(command, check=True, env=self.environment)

    def command(self, *words: str) -> list[str]:
        """Return a command of the installed llava-pack."""
        return [str(self.prefix / "bin" / "llava-pack"), *words]

    def told(self, *words: str, most: int = 0) -> dict[str, Any]:
        """Return what a command prints as JSON; its exit code is at most that."""
        done = subprocess.run(
            self.command(*words, "--json"), env=self.environment, capture_output=True, check=False
        )
        assert done.returncode <= most, done.stdout.decode() + done.stderr.decode()
        return dict(json.loads(done.stdout))


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    installed: Installed
    process: subprocess.Popen[str]
    url: str
    token: str

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=_ANSWER_S)

    def ask(self, number: int = 0, **more: Any) -> dict[str, Any]:
        """Return the body that answers a known question."""
        with self.client() as http:
            answer = http.post("/v1/chat/completions", json=question(number, **more))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def tree(self) -> dict[int, str]:
        """Return what runs below the server, itself first: command lines by process number."""
        own = psutil.Process(self.process.pid)
        found: dict[int, str] = {}
        for one in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                found[one.pid] = " ".join(one.cmdline()) or one.name()
        return found

    def answers_again(self) -> None:
        """Wait until a known question is answered."""
        until(self._ready, within_s=_READY_S)
        assert is_known(text_of(self.ask()))

    def _ready(self) -> bool:
        assert self.process.poll() is None, "the server ended"
        try:
            with self.client() as http:
                body = question(0)
                return http.post("/v1/chat/completions", json=body).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def serving(
    installed: Installed, *options: str, wrap: Sequence[str] = (), port: int = 0
) -> Iterator[Served]:
    """Serve until the block ends, and stop in good order."""
    command = [*wrap, *installed.command("serve", "--as-root", "--port", str(port), "--json")]
    log = installed.home / "serve.err"
    with (
        log.open("w") as err,
        subprocess.Popen(
            [*command, *options],
            env=installed.environment,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            said = json.loads(line)
            assert "token" in said, (said, log.read_text())
            yield Served(installed, process, said["url"], said["token"])
        finally:
            process.terminate()
            process.wait(timeout=_ANSWER_S)


def question(number: int = 0, **more: Any) -> dict[str, Any]:
    """Return a known question about its picture."""
    known = KNOWN[number % len(KNOWN)]
    data = base64.b64encode((ROOT / "bundles" / known["picture"]).read_bytes()).decode()
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    content = [picture, {"type": "text", "text": known["prompt"]}]
    messages = [{"role": "user", "content": content}]
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 32, **more}


def text_of(body: Mapping[str, Any]) -> str:
    return str(body["choices"][0]["message"]["content"])


def is_known(text: str, number: int = 0) -> bool:
    """Return whether an answer has the words that it must have."""
    wanted = KNOWN[number % len(KNOWN)]["contains"]
    return all(any(word in text.lower() for word in one.split("|")) for one in wanted)


def left_in_memory() -> set[str]:
    """Return what lies in /dev/shm, which is this run's alone."""
    return {path.name for path in Path("/dev/shm").iterdir()}


def gone(pids: Sequence[int], within_s: float) -> list[int]:
    """Wait for processes to end, and return those that did not."""
    ends_s = time.monotonic() + within_s
    while (alive := [pid for pid in pids if _runs(pid)]) and time.monotonic() < ends_s:
        time.sleep(0.1)
    return alive


def _runs(pid: int) -> bool:
    """Return whether a process runs: one that has ended may still wait for its parent."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
