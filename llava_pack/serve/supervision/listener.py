"""Where the gateway listens: a port of loopback, another address, or a Unix socket."""

import errno
import os
import socket
import stat
from pathlib import Path

from llava_pack.format.errors import ServeError, UsageError, reason_of
from llava_pack.serve.run_state import RunState

PORT = 7860
"""What `serve` takes where nothing else is asked for: the one that pages of LLaVA are known by."""
_BACKLOG = 512
_MAX_SOCKET_PATH_BYTES = 107  # Source: unix(7), sun_path
_UNSEEN = "a process of another account"


def listen_on_port(
    host: str, port: int, servers: tuple[RunState, ...] = (), *, option: str = "--port"
) -> socket.socket:
    """Return a listening socket.

    Args:
        host: an address or name of this machine.
        port: 0 takes a free one.
        servers: those that run here, to say which of them holds the port.
        option: that the port was typed for.

    Raises:
        UsageError: the address is none of this machine's.
        ServeError: the port is taken, or may not be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # the protocol is named: asyncio turns Nagle off only where it is, and tokens would clump
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise _bind_error(host, port, error, servers, option) from error
    return listening


def listen_on_socket(path: Path) -> socket.socket:
    """Return a listening Unix socket that only its owner can open.

    Raises:
        UsageError: the path is too long for a socket.
        ServeError: something else is there, somebody listens there, or it cannot be made.
    """
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise UsageError(
            f"a socket's path has at most {_MAX_SOCKET_PATH_BYTES} bytes",
            subject="--socket",
            hint="use a shorter one, for example --socket ~/llava.sock",
        )
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        _make_room(path)
        listening.bind(str(path))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ServeError(f"cannot listen there: {reason_of(error)}", subject=str(path)) from error
    except ServeError:
        listening.close()
        raise
    finally:
        os.umask(before)
    return listening


def _make_room(path: Path) -> None:
    """Remove a socket that nobody listens on any more."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ServeError(
            "the path exists and is not a socket",
            subject=str(path),
            hint="use another path with --socket",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ServeError(
        "another process is already listening there",
        subject=str(path),
        hint="stop that server, or use another path with --socket",
    )


def _bind_error(
    host: str, port: int, error: OSError, servers: tuple[RunState, ...], option: str
) -> ServeError | UsageError:
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(port, servers) or _UNSEEN
        another = _free_port(host, port)
        return ServeError(
            f"port {port} is taken by {holder}",
            subject=host,
            hint=f"stop it, or use another port: {option} {another}",
        )
    if error.errno in {errno.EADDRNOTAVAIL, None} or isinstance(error, socket.gaierror):
        return UsageError("not an address of this machine", subject=f"--host {host}")
    if error.errno == errno.EACCES:
        return ServeError(
            f"port {port} needs root, like every port below 1024",
            subject=host,
            hint="use a port from 1024 up: --port 7860",
        )
    return ServeError(f"cannot listen on port {port}: {error.strerror}", subject=host)


def holder_of(port: int, servers: tuple[RunState, ...]) -> str:
    """Return who listens on a port, as far as this account may know; empty where nobody does."""
    for server in servers:
        if server.socket is None and server.port == port:
            return f"llava-pack serve, process {server.pid}, serving {', '.join(server.models)}"
    import psutil  # type: ignore[import-untyped]

    try:
        found = [c for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port]
    except psutil.Error:
        found = []
    pids = [c.pid for c in found if c.status == psutil.CONN_LISTEN]
    if not pids:
        return ""
    pid = next(filter(None, pids), None)
    if pid is None:
        return _UNSEEN
    try:
        return f"{psutil.Process(pid).name()}, process {pid}"
    except psutil.Error:
        return f"process {pid}"


def _free_port(host: str, taken: int) -> int:
    """Return the next port that could be bound just now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(taken + 1, min(taken + 100, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    return 0
