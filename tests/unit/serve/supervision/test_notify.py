"""What systemd is told, at a socket that listens as it does."""

import os
import socket
from pathlib import Path

import pytest

from llava_pack.serve.supervision.systemd import Notifier


def test_the_variables_are_taken_out_of_the_environment() -> None:
    environment = {
        "NOTIFY_SOCKET": "/s",
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    notifier = Notifier.from_environment(environment)
    assert environment == {}
    assert notifier.every_s == 10


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": "0"},
    ],
)
def test_nobody_waits_for_signs_of_life(environment: dict[str, str]) -> None:
    assert Notifier.from_environment(environment).every_s is None


@pytest.mark.parametrize("abstract", [False, True])
def test_messages_arrive_whole_and_on_one_line_each(tmp_path: Path, *, abstract: bool) -> None:
    address = f"@llava-pack-test-{os.getpid()}" if abstract else str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{address[1:]}" if abstract else address)
        notifier = Notifier(address)
        notifier.loading("a\nb")
        notifier.ready("c")
        notifier.alive()
        notifier.stopping(30)
        heard = [systemd.recv(4096).decode() for _ in range(4)]
    assert heard == [
        "STATUS=a b\nEXTEND_TIMEOUT_USEC=60000000", "READY=1\nSTATUS=c", "WATCHDOG=1",
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=90000000",
    ]  # fmt: skip


def test_a_socket_that_is_gone_is_no_error(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "gone")).ready("x")
    Notifier().ready("x")
