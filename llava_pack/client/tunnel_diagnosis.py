"""Which hop of a tunnel fails: from what ssh said and what answered, to the place and the way out.

laptop port → ssh login → sshd's policy → the address on the server → the server that answers.
Pure: the words of OpenSSH and the answer of `/readyz` come as values.

Source: OpenSSH channels.c ("open failed: administratively prohibited", "connect failed"), ssh(1)
exit status 255, sshd_config(5) AllowTcpForwarding, AllowStreamLocalForwarding, PermitOpen.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

Hop = Literal["laptop", "login", "sshd", "address", "server"]


@dataclass(frozen=True, kw_only=True)
class Blame:
    """The hop that fails, why, and what to do there."""

    hop: Hop
    why: str
    fix: str
    lasting: bool = False
    """Trying again changes nothing, and may lock an account."""


# Lines as ssh prints them: a banner may contain any words. The first that matches counts.
_SSH_SAYS = (
    (
        (
            r"^(\S+: )?Permission denied \("
            r"|^(Received disconnect|Disconnected) .*(Too many authentication failures"
            r"|No supported authentication)"
        ),
        Blame(
            hop="login",
            why="the server rejected the login",
            fix="try plain ssh first, with the same account, key and port",
            lasting=True,
        ),
    ),
    (
        r"^Host key verification failed",
        Blame(
            hop="login",
            why="the server's host key is unknown here, or has changed",
            fix="run plain ssh and compare the key",
            lasting=True,
        ),
    ),
    (
        r"^ssh: Could not resolve hostname",
        Blame(
            hop="login",
            why="the server's name cannot be resolved",
            fix="check the name, or go through a bastion: --jump USER@BASTION",
        ),
    ),
    (
        r"^\S+: session request failed|^Session open refused by peer",
        Blame(
            hop="sshd",
            why="sshd on the server allows one session for each connection (MaxSessions)",
            fix="pass -o ControlPath=none: llava-pack then needs one session only",
        ),
    ),
    (
        r"^bind.*: Address already in use|^\S+: cannot listen to port",
        Blame(
            hop="laptop",
            why="the port on this laptop is in use",
            fix="leave out --local-port, or use another",
        ),
    ),
    (
        (
            r"^channel \d+: open failed: .*(administratively prohibited|not permitted)"
            r"|^Port forwarding is disabled|^Master refused forwarding request"
        ),
        Blame(
            hop="sshd",
            why="sshd on the server forbids forwarding",
            fix="ask its administrator for `AllowTcpForwarding local` (and PermitOpen, "
            "Match blocks); for a socket `AllowStreamLocalForwarding local`",
        ),
    ),
    (
        r"^channel \d+: open failed: .*(refused|connect failed|No such file|unknown channel type)",
        Blame(
            hop="address",
            why="nothing listens at that address on the server",
            fix="on the server: llava-pack status; then pass its --port or --socket",
        ),
    ),
    (
        (
            r"^Connection (refused|timed out|reset|closed)"
            r"|^(ssh: connect to host|kex_exchange_identification:|ssh_exchange_identification:"
            r"|banner exchange:|Read from remote host|client_loop:).*"
            r"(Connection (refused|timed out|reset|closed)|No route to host"
            r"|Network is unreachable|Operation timed out)"
        ),
        Blame(
            hop="login",
            why="no sshd responds at that address",
            fix="check the server's name and its ssh port, -p; or go through a "
            "bastion: --jump USER@BASTION",
        ),
    ),
)


def blame_ssh(said: str, *, ended: bool = True) -> Blame:
    """Return the hop that ssh complains about.

    Args:
        said: what it wrote on stderr.
        ended: whether it has ended; else the tunnel stands and something behind it is silent.

    >>> blame_ssh("channel 2: open failed: administratively prohibited: open failed").hop
    'sshd'
    """
    for pattern, blame in _SSH_SAYS:
        if re.search(pattern, said, re.IGNORECASE | re.MULTILINE):
            return blame
    if not ended:
        return Blame(
            hop="address",
            why="the tunnel is open, but nothing responds",
            fix="on the server: llava-pack status; then pass its --port or --socket",
        )
    last = said.strip().splitlines()[-1:] or ["it printed nothing"]
    return Blame(hop="login", why=f"ssh exited: {last[0]}", fix="run the same ssh command by hand")


def blame_answer(status: int, body: Any, expected_id: str | None) -> Blame | None:
    """Return what is wrong with the server at the other end; None where it is the one.

    Args:
        status: of `GET /readyz`.
        body: its JSON; None where it was none.
        expected_id: of the bundle that should be served, or how it begins; None takes any.
    """
    if status == 401:
        return Blame(
            hop="server",
            why="another llava-pack server responds there: it rejects this token",
            fix="on the server: llava-pack tunnel; it prints the right port and token",
        )
    if not isinstance(body, dict) or "bundle_id" not in body:
        return Blame(
            hop="server",
            why=f"a program other than llava-pack responds there (HTTP {status})",
            fix="on the server: llava-pack status; then pass its --port",
        )
    got = body["bundle_id"] or ""
    if expected_id and not got.startswith(expected_id):
        return Blame(
            hop="server",
            why=f"expected the bundle {expected_id[:12]}, got {got[:12] or 'a plain folder'}",
            fix="on the server: llava-pack status; several servers may be running",
        )
    return None
