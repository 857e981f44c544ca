"""The lines that open a tunnel from a laptop to this server: pure, from what is known of it.

Best is what the person typed, which a laptop can tell. Else the ssh session says which address its
client reached; behind address translation that is a private one, of use to nobody outside, so it is
never printed as if it worked.

Source: OpenSSH manual pages ssh(1) "-L", "-J", SSH_CONNECTION; ssh_config(5) LocalForward.
"""

import ipaddress
import shlex
from dataclasses import dataclass

from llava_pack.serve.way_in import WayIn

_SSH_PORT = 22
_HOST, _PORT, _USER = "HOST", "PORT", "USER"
"""Printed where nobody knows: what the person logged in with."""
_OPTIONS = "-o ExitOnForwardFailure=yes -o ServerAliveInterval=30"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where the laptop connects to, and what it reaches there."""

    user: str
    """The account on the server; empty where ssh's own configuration says it."""
    host: str
    """Name or address of the server, as the laptop reached it where that is known."""
    ssh_port: int | None
    """Port of sshd; None where it is not known."""
    local_port: int
    """Port on the laptop, which the browser opens."""
    target: str
    """What is forwarded to: `127.0.0.1:7860`, or the path of a Unix socket."""
    jump: str = ""
    """The bastion that the person came through."""
    typed: bool = False
    """Whether the person's own laptop told all this."""
    seen: str = ""
    """Address and port that only this machine's network knows, where nothing better is known."""

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Words in the lines that a person has to replace."""
        found = {self.user: _USER, self.host: _HOST}
        words = [word for value, word in found.items() if value == word]
        return (*words, _PORT) if self.ssh_port is None else tuple(words)

    @property
    def login(self) -> str:
        """The destination, as ssh takes it."""
        return f"{self.user}@{self.host}" if self.user else self.host


@dataclass(frozen=True, kw_only=True)
class TunnelLines:
    """Ready-to-paste text for each way to open the tunnel."""

    openssh: str
    """Linux, macOS, and Windows PowerShell, which has OpenSSH."""
    bastion: str
    """The same through a jump host; empty where the person came through one."""
    config: tuple[str, ...]
    """A block for ~/.ssh/config, opened by `ssh -N llava-pack`."""
    plink: str
    """PuTTY's command line; empty where it cannot forward (Unix sockets)."""
    putty: str
    """What to type into PuTTY's Tunnels panel; empty like `plink`."""
    vscode: str
    """What to choose in VS Code's Remote-SSH window; empty like `plink`."""


def endpoint(
    *,
    ssh_connection: str | None,
    user: str,
    hostname: str,
    host: str,
    port: int,
    socket: str | None = None,
    reached: WayIn | None = None,
) -> Endpoint:
    """Return where a laptop connects to: as it told, else from this process's SSH session.

    Args:
        ssh_connection: the SSH_CONNECTION variable: client address and port, server address and
            port. The server's address there is one that a client really reached.
        user: the account that serves; empty where it has no name.
        hostname: used where there is no SSH session; empty where it is of no use outside.
        host: the address that serve listens on.
        port: its port; also proposed for the laptop.
        socket: path of the Unix socket that serve listens on instead.
        reached: what the person typed.

    >>> endpoint(ssh_connection="8.8.8.8 50211 1.1.1.1 30022", user="ada",
    ...          hostname="gpu01", host="127.0.0.1", port=7860).ssh_port
    30022
    """
    target = socket or f"{_forwarded(host)}:{port}"
    if reached is not None:
        return Endpoint(
            user=reached.user,
            host=reached.host,
            ssh_port=reached.port or _SSH_PORT,
            local_port=port,
            target=target,
            jump=reached.jump,
            typed=True,
        )
    server, ssh_port = _server(ssh_connection) or (hostname, _SSH_PORT)
    outside = bool(server) and not _private(server)
    return Endpoint(
        user=user or _USER,
        host=server if outside else _HOST,
        ssh_port=ssh_port if outside else None,
        local_port=port,
        target=target,
        seen=f"{server} port {ssh_port}" if server and not outside else "",
    )


def tunnel_lines(to: Endpoint) -> TunnelLines:
    """Return every form of the tunnel to one endpoint."""
    forward = f"-L {shlex.quote(f'{to.local_port}:{to.target}')}"
    login = shlex.quote(to.login)
    number = _PORT if to.ssh_port is None else str(to.ssh_port)
    port = f" -p {number}" if to.ssh_port != _SSH_PORT else ""
    openssh = f"ssh -N {forward} {_OPTIONS}"
    jump = f" -J {shlex.quote(to.jump)}" if to.jump else ""
    unix_socket = to.target.startswith("/")
    plink_port = f" -P {number}" if to.ssh_port != _SSH_PORT else ""
    return TunnelLines(
        openssh=f"{openssh}{jump} {login}{port}",
        bastion="" if to.jump else f"{openssh} -J YOU@BASTION {login}{port}",
        config=_config(to),
        plink="" if unix_socket or to.jump else f"plink -N {forward}{plink_port} {login}",
        putty=""
        if unix_socket
        else f"Connection > SSH > Tunnels: Source port {to.local_port}, "
        f"Destination {to.target}, Local; then Add",
        vscode=""
        if unix_socket
        else f"Remote-SSH window > Ports > Forward a Port > {to.target.rpartition(':')[2]}",
    )


def _server(ssh_connection: str | None) -> tuple[str, int] | None:
    match (ssh_connection or "").split():
        case [_, _, address, port] if port.isascii() and port.isdigit():
            pass
        case _:
            return None
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return None
    return address, int(port)


def _private(server: str) -> bool:
    """Say whether an address is of use only within its own network; a name may be of use anywhere.

    Source: RFC 1918, 3927, 4193, 6598, as `ipaddress` has them.
    """
    try:
        return not ipaddress.ip_address(server).is_global
    except ValueError:
        return server.partition(".")[0] == "localhost"


def _forwarded(host: str) -> str:
    """Return the address to forward to on the server: any-address listeners answer on loopback."""
    if host in {"", "0.0.0.0", "::", "localhost"}:  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _config(to: Endpoint) -> tuple[str, ...]:
    destination = f'"{to.target}"' if " " in to.target else to.target
    return (
        "Host llava-pack",
        f"    HostName {to.host}",
        f"    Port {_PORT if to.ssh_port is None else to.ssh_port}",
        *([f"    User {to.user}"] if to.user else []),
        *([f"    ProxyJump {to.jump}"] if to.jump else []),
        f"    LocalForward {to.local_port} {destination}",
        "    ExitOnForwardFailure yes",
        "    ServerAliveInterval 30",
    )
