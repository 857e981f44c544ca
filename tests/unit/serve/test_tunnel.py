"""The tunnel lines: right for the session that serve runs in."""

import shlex
from typing import Any

import pytest

from llava_pack.format.errors import UsageError
from llava_pack.serve.tunnel_lines import Endpoint, endpoint, tunnel_lines
from llava_pack.serve.way_in import way_in


def _endpoint(ssh_connection: str | None = None, **changes: Any) -> Endpoint:
    facts: dict[str, Any] = {
        "ssh_connection": ssh_connection,
        "user": "ada",
        "hostname": "gpu01",
        "host": "127.0.0.1",
        "port": 7860,
    }
    return endpoint(**{**facts, **changes})


def test_the_session_names_the_server_as_the_laptop_reached_it() -> None:
    lines = tunnel_lines(_endpoint("198.51.100.7 50211 8.8.4.4 30022"))
    assert lines.openssh == (
        "ssh -N -L 7860:127.0.0.1:7860 -o ExitOnForwardFailure=yes -o ServerAliveInterval=30"
        " ada@8.8.4.4 -p 30022"
    )


def test_the_usual_port_is_not_spelled_out() -> None:
    assert tunnel_lines(_endpoint("192.0.2.1 1 8.8.4.4 22")).openssh.endswith(" ada@8.8.4.4")


@pytest.mark.parametrize("connection", [None, "", "a b c", "1.2.3.4 5 evil;host 22", "1 2 3 x"])
def test_without_a_session_the_host_name_is_used(connection: str | None) -> None:
    lines = tunnel_lines(_endpoint(connection))
    assert lines.openssh.endswith(" ada@gpu01")


def test_a_bastion_comes_before_the_server() -> None:
    lines = tunnel_lines(_endpoint("192.0.2.1 1 8.8.4.4 2222"))
    assert lines.bastion.endswith(" -J YOU@BASTION ada@8.8.4.4 -p 2222")


def test_the_config_block_has_every_value() -> None:
    assert tunnel_lines(_endpoint("192.0.2.1 1 8.8.4.4 2222")).config == (
        "Host llava-pack",
        "    HostName 8.8.4.4",
        "    Port 2222",
        "    User ada",
        "    LocalForward 7860 127.0.0.1:7860",
        "    ExitOnForwardFailure yes",
        "    ServerAliveInterval 30",
    )


def test_putty_and_vs_code() -> None:
    lines = tunnel_lines(_endpoint("192.0.2.1 1 8.8.4.4 2222", port=7999))
    assert lines.plink == "plink -N -L 7999:127.0.0.1:7999 -P 2222 ada@8.8.4.4"
    assert "Source port 7999, Destination 127.0.0.1:7999" in lines.putty
    assert lines.vscode.endswith("> 7999")


def test_a_unix_socket_is_forwarded_where_the_client_can() -> None:
    lines = tunnel_lines(_endpoint(socket="/run/user/1000/llava.sock"))
    assert " -L 7860:/run/user/1000/llava.sock " in lines.openssh
    assert "    LocalForward 7860 /run/user/1000/llava.sock" in lines.config
    assert (lines.plink, lines.putty, lines.vscode) == ("", "", "")


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("0.0.0.0", "127.0.0.1:7860"),
        ("::", "127.0.0.1:7860"),
        ("10.1.2.3", "10.1.2.3:7860"),
        ("::1", "[::1]:7860"),
    ],
)
def test_the_forward_reaches_the_address_that_listens(host: str, target: str) -> None:
    assert _endpoint(host=host).target == target


def test_names_from_outside_are_one_word_for_the_shell() -> None:
    lines = tunnel_lines(_endpoint(user="DOM\\a b", hostname="h;x", socket="/run/a b.sock"))
    words = shlex.split(lines.openssh)
    assert words[-1] == "DOM\\a b@h;x"
    assert words[3] == "7860:/run/a b.sock"


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.5", "172.17.0.2", "192.168.1.9", "100.64.3.4", "169.254.1.1", "127.0.0.1"),
        *("fd00::7", "fe80::1%eth0", "192.0.2.9"),
    ],
)
def test_a_private_address_is_never_printed_as_if_it_worked(address: str) -> None:
    to = _endpoint(f"192.0.2.1 1 {address} 22")
    lines = tunnel_lines(to)
    assert lines.openssh.endswith(" ada@HOST -p PORT")
    assert lines.plink.endswith(" -P PORT ada@HOST")
    assert lines.config[1:3] == ("    HostName HOST", "    Port PORT")
    assert not any(f"@{address}" in str(line) for line in vars(lines).values())
    assert (to.placeholders, to.seen) == (("HOST", "PORT"), f"{address} port 22")


def test_where_nothing_is_known_there_are_placeholders() -> None:
    nameless = _endpoint(user="", hostname="")
    assert tunnel_lines(nameless).openssh.endswith(" USER@HOST -p PORT")
    assert (nameless.placeholders, nameless.seen) == (("USER", "HOST", "PORT"), "")
    assert _endpoint(hostname="localhost.localdomain").placeholders == ("HOST", "PORT")
    assert _endpoint().placeholders == ()


@pytest.mark.parametrize(
    ("typed", "end", "config"),
    [
        ("root@ssh.corp:42354", " root@ssh.corp -p 42354", ("    Port 42354", "    User root")),
        ("gpu", " gpu", ("    Port 22",)),
        ("root@[2001:db8::7]:22", " root@2001:db8::7", ("    Port 22", "    User root")),
        (
            "ada@one:2200,ben@two,root@gpu01",
            " -J ada@one:2200,ben@two root@gpu01",
            ("    Port 22", "    User root", "    ProxyJump ada@one:2200,ben@two"),
        ),
    ],
)
def test_what_the_person_typed_is_printed(typed: str, end: str, config: tuple[str, ...]) -> None:
    to = _endpoint("192.0.2.1 1 172.17.0.2 22", reached=way_in(typed))
    lines = tunnel_lines(to)
    assert lines.openssh.endswith(end)
    assert lines.config[2 : 2 + len(config)] == config
    assert (lines.bastion == "") == ("-J" in end)
    assert (to.typed, to.placeholders) == (True, ())


@pytest.mark.parametrize(
    "text", ["-oProxyCommand=x", "a b", "ada@", "ada@h:99999", ",ada@h", "a@-x", "a@h:x"]
)
def test_what_is_no_destination_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        way_in(text)
