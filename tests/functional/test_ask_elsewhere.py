"""`chat` and `ask` on a laptop without Pillow and torch: through ssh, and at a URL."""

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from llava_pack.client.api_server import at_url
from llava_pack.format.errors import UsageError
from tests.support.gateway import TOKEN, Gateway, gateway
from tests.support.sshd import PROGRAM, LoopbackSshd

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no sshd on this machine")
_BARE = [sys.executable, "-m", "tests.support.bare_laptop"]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lp-") as name:  # short: sockets are made below it
        yield Path(name)


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Gateway]:
    with gateway(folder / "llava-pack" / "run") as running:
        yield running


@contextmanager
def _sshd(home: Path) -> Iterator[LoopbackSshd]:
    """Run an sshd whose sessions find this llava-pack, and the server below a folder."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = f"PATH={path} XDG_STATE_HOME={home} HOME={home}"
    (home / "sshd").mkdir()
    with LoopbackSshd(home / "sshd", {"SetEnv": environment}) as server:
        yield server


@pytest.fixture(scope="module")
def sshd(folder: Path) -> Iterator[LoopbackSshd]:
    with _sshd(folder) as server:
        yield server


@pytest.fixture(scope="module")
def slow(folder: Path) -> Iterator[LoopbackSshd]:
    """Return the way to a server that takes its time for each token."""
    run = folder / "slow" / "llava-pack" / "run"
    with gateway(run, engine="--step-s 0.3"), _sshd(folder / "slow") as server:
        yield server


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (4, 3), (250, 0, 0)).save(path)
    return path


def _via(sshd: LoopbackSshd) -> list[str]:
    options = [part for one in sshd.options for part in ("-o", one)]
    return ["--via", f"{sshd.user}@127.0.0.1", "-p", str(sshd.port), *options]


def _run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [*_BARE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_a_picture_is_asked_about_through_ssh(
    served: Gateway, sshd: LoopbackSshd, red: Path
) -> None:
    done = _run("chat", *_via(sshd), "--image", red, "--prompt", "hello")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "You said: hello Picture 4x3 of 250,0,0.\n"


def test_a_folder_is_asked_about_through_ssh(
    served: Gateway, sshd: LoopbackSshd, red: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers"
    listed = tmp_path / "list.jsonl"
    listed.write_text('{"image": "red.png"}\n{"image": "list.jsonl"}\n')
    done = _run("ask", *_via(sshd), "--images", listed, "--prompt", "colour", "--out", out)
    assert done.returncode == 2, done.stderr
    lines = {line["image"]: line for line in map(json.loads, out.read_text().splitlines())}
    assert "Picture 4x3 of 250,0,0." in lines["red.png"]["text"]
    assert "not a picture" in lines["list.jsonl"]["error"]["message"]


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_a_server_is_asked_at_its_url(
    served: Gateway, red: Path, key: Path, suffix: str, tmp_path: Path
) -> None:
    there = ["--url", served.url + suffix, "--key-file", str(key)]
    done = _run("chat", *there, "--image", red, "--prompt", "hello", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == "You said: hello Picture 4x3 of 250,0,0."
    done = _run("ask", *there, "--images", tmp_path, "--prompt", "x", "--out", tmp_path / "o")
    assert done.returncode == 1, done.stderr
    assert json.loads((tmp_path / "o").read_text())["text"].startswith("You said: x Picture 4x3")


def test_a_conversation_outlives_ctrl_c(slow: LoopbackSshd) -> None:
    """Ctrl-C goes to every process of the terminal; the tunnel stays for the next question."""
    command = [*_BARE, "chat", *_via(slow)]
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(command[0], command)  # noqa: S606 - it has no shell
    with os.fdopen(terminal, "rb+", buffering=0) as stream:
        _until(stream, b"> ")
        stream.write(b"a question of many words that takes a while\n")
        _until(stream, b"You")
        stream.write(b"\x03")
        _until(stream, b"stopped; Ctrl-D quits")
        stream.write(b"again\n")
        _until(stream, b"You said: again")
        stream.write(b"/quit\n")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _until(stream: object, words: bytes) -> None:
    """Read a terminal until it shows some words."""
    seen = b""
    while words not in seen:
        part = stream.read(1024)  # type: ignore[attr-defined]
        assert part, seen
        seen += part


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--url", "ftp://x"], 2, "expected an address as https://llava.corp"),
        (["--url", "http://me:pw@localhost:7860"], 2, "--key-file FILE"),
        (["--url", "http://localhost:1"], 9, "cannot be reached"),
        (["--url", "URL"], 12, "llava-pack keys add NAME"),
        (["--url", "URL", "--key-file", "nowhere"], 2, "the key file cannot be read"),
        (["--url", "URL", "--key-file", "TWO"], 2, "expected one API key on one line"),
        (["--url", "URL", "--key-file", "KEY", "--model", "gpt-9"], 15, "running: echo"),
        (["--url", "URL", "--key-file", "KEY", "--shrink", "--image", "RED"], 15, "has no PIL"),
        (["--url", "URL", "--key-file", "KEY", "--image", "KEY"], 2, "not a picture"),
        (["--url", "URL", "--precision", "nf4"], 2, "has no meaning with --url"),
        (["--key-file", "KEY"], 2, "goes only with one of: --url"),
        (["--via", "nobody@127.0.0.1", "-p", "1"], 9, "hop: ssh login"),
    ],
)
def test_what_cannot_be_asked_says_why(
    served: Gateway,
    key: Path,
    red: Path,
    tmp_path: Path,
    options: list[str],
    code: int,
    words: str,
) -> None:
    two = tmp_path / "two"
    two.write_text("one\ntwo\n")
    values = {"URL": served.url, "KEY": str(key), "TWO": str(two), "RED": str(red)}
    done = _run("chat", "--prompt", "x", *(values.get(one, one) for one in options))
    assert done.returncode == code, done.stderr
    assert words in done.stderr


@pytest.mark.parametrize(
    ("url", "proxy", "words"),
    [
        ("http://llava.invalid", "carrier://127.0.0.1:1", "the proxy of this environment"),
        ("http://llava\x01.invalid", "", "the address is not valid"),
        ("http://" + "a" * 70000, "", "the address is not valid"),
    ],
)
def test_an_address_or_a_proxy_that_is_of_no_use_is_named(
    monkeypatch: pytest.MonkeyPatch, url: str, proxy: str, words: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(UsageError, match=words):
        at_url(url, None, None)


def test_the_tunnel_ends_with_the_command(slow: LoopbackSshd) -> None:
    command = [*_BARE, "chat", *_via(slow), "--prompt", "many words " * 20]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(3)
        [ssh] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert not Path("/proc", ssh).exists()
