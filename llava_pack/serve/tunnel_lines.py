"""The lines that open a tunnel from a laptop to this server: pure, from what the SSH session says.

Source: OpenSSH manual pages ssh(1) "-L", "-J", SSH_CONNECTION; ssh_config(5) LocalForward.
"""

import ipaddress
import shlex
from dataclasses import dataclass

_SSH_PORT = 22
_OPTIONS = "-o ExitOnForwardFailure=yes -o ServerAliveInterval=30"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where the laptop connects to, and what it reaches there."""

    user: str
    """The account on the server."""
    host: str
    """Name or address of the server, as the laptop reached it where that is known."""
    ssh_port: int
    """Port of sshd."""
    local_port: int
    """Port on the laptop, which the browser opens."""
    target: str
    """What is forwarded to: `127.0.0.1:7860`, or the path of a Unix socket."""


@dataclass(frozen=True, kw_only=True)
class TunnelLines:
    """Ready-to-paste text for each way to open the tunnel."""

    openssh: str
    """Linux, macOS, and Windows PowerShell, which has OpenSSH."""
    bastion: str
    """The same through a jump host."""
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
) -> Endpoint:
    """Return where a laptop connects to, from this process's SSH session if it has one.

    Args:
        ssh_connection: the SSH_CONNECTION variable: client address and port, server address and
            port. The server's address there is one that a client really reached.
        user: the account that serves.
        hostname: used where there is no SSH session.
        host: the address that serve listens on.
        port: its port; also proposed for the laptop.
        socket: path of the Unix socket that serve listens on instead.

    >>> endpoint(ssh_connection="198.51.100.7 50211 10.0.0.5 30022", user="ada",
    ...          hostname="gpu01", host="127.0.0.1", port=7860).ssh_port
    30022
    """
    server, ssh_port = _server(ssh_connection) or (hostname, _SSH_PORT)
    return Endpoint(
        user=user,
        host=server,
        ssh_port=ssh_port,
        local_port=port,
        target=socket or f"{_forwarded(host)}:{port}",
    )


def tunnel_lines(to: Endpoint) -> TunnelLines:
    """Return every form of the tunnel to one endpoint."""
    forward = f"-L {shlex.quote(f'{to.local_port}:{to.target}')}"
    login = shlex.quote(f"{to.user}@{to.host}")
    port = f" -p {to.ssh_port}" if to.ssh_port != _SSH_PORT else ""
    openssh = f"ssh -N {forward} {_OPTIONS}"
    unix_socket = to.target.startswith("/")
    plink_port = f" -P {to.ssh_port}" if to.ssh_port != _SSH_PORT else ""
    return TunnelLines(
        openssh=f"{openssh} {login}{port}",
        bastion=f"{openssh} -J YOU@BASTION {login}{port}",
        config=_config(to),
        plink="" if unix_socket else f"plink -N {forward}{plink_port} {login}",
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
        f"    Port {to.ssh_port}",
        f"    User {to.user}",
        f"    LocalForward {to.local_port} {destination}",
        "    ExitOnForwardFailure yes",
        "    ServerAliveInterval 30",
    )
