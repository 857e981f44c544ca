"""A server whose disk fills up while a bundle arrives."""

import random
import tempfile
from pathlib import Path

import pytest

from llava_pack.client.sending.cargo import read_cargo
from llava_pack.client.sending.send import BackOff, SendRequest, send_bundle
from llava_pack.format.errors import SpaceError
from llava_pack.format.progress import Silent
from tests.support.bundle import BundleSimulator
from tests.support.remote import TRANSPORTS, login_to, reached
from tests.support.small_disk import disk_of
from tests.support.sshd import PROGRAM, LoopbackSshd


@pytest.mark.skipif(PROGRAM is None, reason="no sshd on this machine")
@pytest.mark.parametrize("kind", TRANSPORTS)
def test_a_disk_that_fills_up_is_7_and_what_came_is_kept(kind: str) -> None:
    weights = random.Random(4).randbytes(5_000_000)
    with tempfile.TemporaryDirectory(prefix="lp-") as name:
        folder = Path(name)
        BundleSimulator(weights=weights).write(folder / "bundle")
        request = SendRequest(cargo=read_cargo(folder / "bundle"), to=str(folder / "there"))
        for size_bytes in (2_000_000, 50_000_000):
            place = folder / f"sshd{size_bytes}"
            place.mkdir()
            with (
                disk_of(size_bytes),
                LoopbackSshd(place) as sshd,
                reached(kind, login_to(sshd)) as host,
            ):
                if size_bytes < len(weights):
                    with pytest.raises(SpaceError, match="no space left under"):
                        send_bundle(host, request, Silent(), BackOff(attempts=0))
                else:
                    done = send_bundle(host, request, Silent(), BackOff(attempts=0))
        assert done.sent_bytes <= len(weights) - 1_900_000
