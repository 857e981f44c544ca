"""The lines of the card that carry a bundle over, typed as they stand, against a real sshd."""

import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava_pack.assemble.card import carry_lines
from tests.support.bundle import BundleSimulator
from tests.support.sshd import PROGRAM, LoopbackSshd

pytestmark = pytest.mark.skipif(
    PROGRAM is None or sys.platform != "linux", reason="no sshd on this machine"
)
WEIGHTS = "model/tiny-llava/model-00001-of-00001.safetensors"
WAYS = ("rsync", "ssh", "rsync to a stick")
SFTP = shutil.which("sftp-server", path="/usr/lib/openssh:/usr/libexec/openssh:/usr/lib/ssh")


class Carrier:
    """A laptop with two bundles, a server and a stick, and the card's lines between them."""

    def __init__(self, place: Path, sshd: LoopbackSshd) -> None:
        self.place = place
        self._sshd = sshd
        self.old, self.new = place / "old" / "a bundle", place / "new" / "a bundle"
        for number, folder in enumerate((self.old, self.new)):
            weights = random.Random(number).randbytes(3_000_000)
            BundleSimulator(weights=weights, release=1_700_000_000 + number).write(folder)
            for path in folder.rglob("*"):
                if path.is_file():
                    path.chmod(0o444)  # as those are that the cache has too
        self.there = dict.fromkeys(WAYS, place / "home" / "a-bundle")
        self.there["rsync to a stick"] = place / "stick" / "a-bundle"
        for folder in (place / "home", place / "stick", place / "bin"):
            folder.mkdir()
        options = " ".join(f"-o '{option}'" for option in sshd.options)
        cut = f'if [ -e "{place}/cut" ]; then dd bs=8192 count=100 2>/dev/null | '
        ssh = f'{shutil.which("ssh")} {options} "$@"'
        self._write("ssh", f"{cut}{ssh}; else exec {ssh}; fi")
        self._write("scp", f'exec {shutil.which("scp")} -S "{place}/bin/ssh" {options} "$@"')

    def _write(self, name: str, text: str) -> None:
        path = self.place / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def carry(self, way: str, bundle: Path, *, cut: bool = False) -> int:
        """Type the line of a way, and return its exit code."""
        _, rsync, scp, stick = carry_lines(str(bundle), "linux")
        line = dict(zip(WAYS, (rsync, scp, stick), strict=True))[way]
        line = line.replace("USER@SERVER", f"{self._sshd.user}@127.0.0.1")
        line = line.replace("PORT", str(self._sshd.port))
        line = line.replace("/media/USB", str(self.place / "stick"))
        assert shlex.split(line) == shlex.split(line, comments=True), "zsh knows no remarks"
        (self.place / "cut").unlink(missing_ok=True)
        if cut:
            (self.place / "cut").touch()
        path = f"{self.place / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            ["sh", "-c", line],
            env={**os.environ, "PATH": path},
            check=False,
            capture_output=True,
            timeout=60,
        ).returncode


@pytest.fixture
def carrier(tmp_path: Path) -> Iterator[Carrier]:
    (tmp_path / "sshd").mkdir()
    settings = {
        "Subsystem": f"sftp {SFTP}",
        "ForceCommand": f"cd '{tmp_path / 'home'}' && eval \"$SSH_ORIGINAL_COMMAND\"",
        "SetEnv": f"PATH={os.environ['PATH']}",
    }
    with LoopbackSshd(tmp_path / "sshd", settings) as sshd:
        yield Carrier(tmp_path, sshd)


def files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("way", WAYS)
def test_each_way_can_be_typed_again_repairs_and_updates(carrier: Carrier, way: str) -> None:
    if way.startswith("rsync") and shutil.which("rsync") is None:
        pytest.skip("no rsync on this machine")
    if way == "ssh" and SFTP is None:
        pytest.skip("no sftp-server on this machine")
    there = carrier.there[way]
    if "stick" not in way:
        assert carrier.carry(way, carrier.old, cut=True) != 0
        assert files(there) != files(carrier.old)
    assert carrier.carry(way, carrier.old) == 0
    assert files(there) == files(carrier.old)
    flipped = there / WEIGHTS
    times = flipped.stat()
    flipped.chmod(0o644)
    flipped.write_bytes(b"\0" + flipped.read_bytes()[1:])
    os.utime(flipped, ns=(times.st_atime_ns, times.st_mtime_ns))
    (there / "model" / "stranger.bin").write_bytes(b"left by somebody")
    assert carrier.carry(way, carrier.old) == 0
    assert files(there) == files(carrier.old)
    assert carrier.carry(way, carrier.new) == 0
    assert files(there) == files(carrier.new)
