"""What is pasted on the other nodes: whole lines, that `serve` and a shell take as they are."""

import ipaddress
import shlex
import subprocess
from dataclasses import replace

import pytest
from typer.main import get_command

from llava_pack.cli.app import app
from llava_pack.serve.nodes.join_key import VARIABLE
from llava_pack.serve.nodes.join_line import Meeting, firewall_lines, join_lines, joined

MEETING = Meeting(
    program="/opt/it's here/bin/llava-pack",
    models=(),
    head="10.0.0.1",
    port=29500,
    count=3,
    bundle_id="ab" * 32,
    key="k" * 43,
    shared=False,
    interface="ib0",
    network=ipaddress.ip_network("10.0.0.0/24"),
)


def test_there_is_a_line_for_each_other_node() -> None:
    ranks = [line.split("--rank ")[1].split()[0] for line in join_lines(MEETING)]
    assert ranks == ["1", "2"]


@pytest.mark.parametrize(
    "meeting",
    [
        MEETING,
        replace(MEETING, models=("my model",), shared=True),
        replace(MEETING, head="fd00::1", network=ipaddress.ip_network("fd00::/64")),
    ],
)
def test_a_shell_runs_the_line_and_serve_takes_its_words(meeting: Meeting) -> None:
    line = join_lines(meeting)[0]
    program = shlex.quote(meeting.program)
    shown = line.replace(program, f'printf "%s\\0" "${VARIABLE}"; printf "%s\\0"', 1)
    done = subprocess.run(
        ["sh", "-c", shown.replace(" ", "; ", 1)], capture_output=True, check=True
    )
    key, *words = done.stdout.decode().rstrip("\0").split("\0")
    assert key == meeting.key
    context = get_command(app).commands["serve"].make_context("serve", words[1:])
    assert context.params["join"] == joined(meeting.head, meeting.port)
    assert context.params["fingerprint"] == meeting.bundle_id
    assert context.params["shared_network"] is meeting.shared
    assert tuple(context.params["recipes"] or ()) == meeting.models


def test_the_key_is_no_argument() -> None:
    for line in join_lines(MEETING):
        assert line.startswith(f"{VARIABLE}={MEETING.key} ")
        assert MEETING.key not in line.removeprefix(f"{VARIABLE}={MEETING.key} ")


def test_a_firewall_is_told_both_ports_and_the_interface() -> None:
    lines = firewall_lines(MEETING)
    assert lines.keys() == {"nftables", "firewalld", "ufw"}
    assert "29500, 29501" in lines["nftables"]
    assert all("ib0" in line for line in lines.values())
    assert "10.0.0.0/24" in lines["ufw"]
