"""One running ssh: how it ends, and what is made of what it said."""

import os
import signal
import time

import pytest

from llava_pack.client.ssh_login import SshProcess
from llava_pack.client.tunnel_diagnosis import blame_ssh

_DENIED = "ada@gpu01: Permission denied (publickey,password).\r\n"


def test_it_ends_although_what_it_started_holds_its_stderr():
    process = SshProcess(["sh", "-c", "sleep 60 & echo $! >&2; wait"])
    while not (said := process.said(0)):
        time.sleep(0.01)
    began_s = time.monotonic()
    process.stop()
    assert time.monotonic() - began_s < 6
    os.kill(int(said), signal.SIGKILL)


@pytest.mark.parametrize(
    ("said", "hop", "lasting"),
    [
        ("Unauthorized access is not permitted\r\n" + _DENIED, "login", True),
        ("open failed: administratively prohibited, said the banner\n" + _DENIED, "login", True),
        ("Host key verification failed.\r\n", "login", True),
        ("channel 2: open failed: administratively prohibited: open failed\r\n", "sshd", False),
        ("channel 2: open failed: connect failed: Connection refused\r\n", "address", False),
        ("channel 2: open failed: unknown channel type: unsupported\r\n", "address", False),
        ("ssh: connect to host gpu01 port 22: Connection refused\r\n", "login", False),
        ("kex_exchange_identification: read: Connection reset by peer\r\n", "login", False),
        ("bind [127.0.0.1]:7860: Address already in use\r\n", "laptop", False),
        ("Permission denied, please try again.\r\n", "address", False),
        ("No access is permitted: Connection closed soon\r\n", "address", False),
    ],
)
def test_lines_of_ssh_decide_and_no_banner_does(said, hop, lasting):
    blame = blame_ssh(said, ended=False)
    assert (blame.hop, blame.lasting) == (hop, lasting)
