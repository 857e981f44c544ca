"""Media written on Windows: verified there and on Linux, repaired, and installed from by sh."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava_pack.format.chunks import CHUNK_BYTES
from tests.support.bundle import BASE_PYTHON
from tests.windows.conftest import ON_LINUX
from tests.windows.run import ROOT
from tests.windows.world import windows_path

MEDIUM_BYTES = 260_000_000


@pytest.fixture(scope="module")
def media(windows, on_linux, tmp_path_factory):
    """Carry the bundle of Linux over two media, from Windows; return their folders."""
    there = tmp_path_factory.mktemp("media") / "two sticks"
    there.mkdir()
    told = _carry(windows, on_linux, there, "--media", MEDIUM_BYTES)
    assert [medium["medium"] for medium in told["media"]] == [1, 2]
    return sorted(there.iterdir())


def _carry(windows, on_linux, to, *options, stdin=None):
    bundle = windows_path(on_linux.bundle)
    to = windows_path(to)
    done = windows.run("carry", bundle, "--to", to, "--json", *options, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _on_linux(*arguments):
    command = [sys.executable, "-m", "llava_pack", *map(str, arguments)]
    environ = {**os.environ, "PYTHONPATH": str(ON_LINUX)}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _wheel(media: list[Path]) -> Path:
    """Return the largest wheel that travels whole if it is asked for."""
    wheels = (path for medium in media for path in medium.glob("wheels/*.whl"))
    sizes = {path: path.stat().st_size for path in wheels}
    return max((one for one in sizes if sizes[one] <= CHUNK_BYTES), key=lambda path: sizes[path])


def test_each_medium_is_right_on_both_sides(windows, media):
    for medium in media:
        there = windows.run("verify", windows_path(medium), "--json")
        assert there.returncode == 0, there.stderr
        here = _on_linux("verify", medium, "--json")
        assert here.returncode == 0, here.stderr
        assert json.loads(there.stdout)["bundle_id"] == json.loads(here.stdout)["bundle_id"]


def test_linux_writes_the_same_media_and_a_second_run_nothing(windows, on_linux, media, tmp_path):
    done = _on_linux("carry", on_linux.bundle, "--to", tmp_path, "--media", MEDIUM_BYTES)
    assert done.returncode == 0, done.stderr
    compare = ["diff", "--recursive", "--brief", media[0].parent, tmp_path]
    assert subprocess.run(compare, check=False).returncode == 0
    again = _carry(windows, on_linux, media[0].parent, "--media", MEDIUM_BYTES)
    assert [medium["copied_bytes"] for medium in again["media"]] == [0, 0]


def test_recovery_volumes_made_on_windows_repair_on_both_sides(windows, on_linux, tmp_path):
    _carry(windows, on_linux, tmp_path, "--parity", "5%")
    (folder,) = tmp_path.iterdir()
    assert list((folder / "parity").iterdir())
    bad = folder / "model"
    bad = max(bad.rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    good = bad.read_bytes()
    for repair in (
        lambda: windows.run("repair", windows_path(folder)),
        lambda: _on_linux("repair", folder),
    ):
        _flip(bad)
        done = repair()
        assert done.returncode == 0, done.stderr
        assert bad.read_bytes() == good


@pytest.fixture
def server(tmp_path):
    """Return what runs install.sh as a server would, and its prefix."""
    prefix = tmp_path / "server" / "llava"
    path = f"{Path(BASE_PYTHON).parent}:/usr/bin:/bin"

    def install(*arguments):
        command = ["sh", ROOT / "installers/install.sh", "--prefix", prefix, *arguments]
        environ = {"PATH": path, "HOME": str(tmp_path)}
        return subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    return install, prefix


def test_what_a_server_lacks_is_pasted_on_windows_and_completes_it(
    windows, on_linux, media, server, tmp_path
):
    install, prefix = server
    bundle_id = json.loads(windows.run("verify", windows_path(media[0]), "--json").stdout)
    collect = ["--collect", "--expect", bundle_id["bundle_id"]]
    bad = _wheel(media)
    good = bad.read_bytes()
    _flip(bad)
    done = install(*collect, "--bundle", media[0], "--bundle", media[1])
    bad.write_bytes(good)
    assert done.returncode == 4, done.stderr
    pasted = next(line for line in done.stderr.splitlines() if line.startswith("need:"))
    asked = json.loads((prefix / "need.json").read_text())
    assert [one["path"] for one in asked["files"]] == [f"wheels/{bad.name}"]
    there = tmp_path / "repair"
    _carry(windows, on_linux, there, "--need", "-", stdin=f"  {pasted}\r\n")
    (folder,) = there.iterdir()
    assert (folder / "wheels" / bad.name).read_bytes() == good
    done = install(*collect, "--bundle", folder)
    assert done.returncode == 0, done.stderr
    have = tmp_path / "have.txt"
    said = subprocess.run(
        [prefix / "bin/llava-pack", "have", "--short"], capture_output=True, text=True, check=True
    )
    have.write_bytes(said.stdout.replace("\n", "\r\n").encode("utf-16"))  # as PowerShell's `>`
    done = windows.run(
        "carry", windows_path(on_linux.bundle), "--to", windows_path(tmp_path / "nothing"),
        "--have", windows_path(have),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "nothing").rglob("*.whl"))


def test_doctor_says_what_windows_reaches(windows, on_linux):
    """The loopback servers stand for two of its hosts; the others have no address here."""
    done = windows.run("doctor", windows_path(on_linux.recipe), "--json")
    told = json.loads(done.stdout)
    hosts = [host for one in told["errands"] for host in one["hosts"]]
    reached = [one for one in hosts if one["host"].startswith("127.0.0.1")]
    assert len(reached) >= 2
    assert not any(one["problem"] for one in reached)
    for one in hosts:
        if one not in reached:
            assert one["host"] in one["problem"]["message"]
            assert one["problem"]["hint"]
