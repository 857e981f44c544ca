"""Where replicas are, and the keys that open them; as typed, and from a private file."""

import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llava_pack.format.errors import UsageError, reason_of
from llava_pack.serve.access.policy import read_keys

_UNIX = "unix:"
_EXPECTED = "expected unix:PATH or HOST:PORT"
_MAX_PORT = 65535


@dataclass(frozen=True, kw_only=True)
class ReplicaAddress:
    """A server that serves the same model."""

    address: str
    """As people write it: `unix:/PATH` or `HOST:PORT`."""
    path: Path | None = None
    """Of its Unix socket; None for a port."""
    host: str = ""
    port: int = 0
    key: str = field(default="", repr=False)
    """What it is shown; empty where it asks for none."""


def replica_address(typed: str, keys: Mapping[str, str] | None = None) -> ReplicaAddress:
    """Return where a replica is, with its key.

    Args:
        typed: as a person wrote it.
        keys: by address; one for all others under the empty one.

    Raises:
        UsageError: it is no address.

    >>> replica_address("gpu1:7860").port, replica_address("[fd00::1]:7860").host
    (7860, 'fd00::1')
    """
    keys = keys or {}
    if typed.startswith(_UNIX) and len(typed) > len(_UNIX):
        path = Path(typed.removeprefix(_UNIX)).expanduser().absolute()
        address = f"{_UNIX}{path}"
        return ReplicaAddress(address=address, path=path, key=keys.get(address, keys.get("", "")))
    host, colon, port = typed.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if "//" in typed:
        raise UsageError(
            f"{_EXPECTED}, got {typed}",
            subject="--replica",
            hint="it is spoken to without TLS: over a private network, or through an ssh tunnel",
        )
    wrong = not (colon and bare and port.isdecimal() and 0 < int(port) <= _MAX_PORT)
    if wrong or (":" in bare and bare == host) or any(c.isspace() or c == "/" for c in typed):
        raise UsageError(f"{_EXPECTED}, got {typed}", subject="--replica")
    key = keys.get(typed, keys.get("", ""))
    return ReplicaAddress(address=typed, host=bare, port=int(port), key=key)


def replica_addresses(
    typed: Sequence[str], keys: Mapping[str, str], own: str = ""
) -> tuple[ReplicaAddress, ...]:
    """Return where replicas are, each once.

    Args:
        typed: as a person wrote them.
        keys: as `replica_keys` returns them.
        own: where this server listens, as an address of a replica.

    Raises:
        UsageError: one is no address, is there twice, or is this server itself.
    """
    found = tuple(replica_address(one, keys) for one in typed)
    seen: dict[object, str] = {}
    for one in found:
        for place in places(one):
            if (before := seen.setdefault(place, one.address)) != one.address:
                raise UsageError(f"{before} and {one.address} are one server", subject="--replica")
        if len([each for each in found if each.address == one.address]) > 1:
            raise UsageError(f"{one.address} is given twice", subject="--replica")
    refuse_itself(found, own)
    return found


def refuse_itself(replicas: Iterable[ReplicaAddress], own: str) -> None:
    """Refuse a replica that is this server.

    Args:
        replicas: that are to be asked.
        own: where this server listens, as an address of a replica; empty for nowhere.

    Raises:
        UsageError: one is.
    """
    ours = places(replica_address(own)) if own else frozenset()
    for one in replicas:
        if places(one) & ours:
            raise UsageError(f"{one.address} is this server itself", subject="--replica")


def places(replica: ReplicaAddress) -> frozenset[object]:
    """Return where a replica is, so that two names of one place are equal; names are looked up."""
    if replica.path is not None:
        return frozenset({replica.path.resolve()})
    try:
        found = socket.getaddrinfo(replica.host, replica.port, type=socket.SOCK_STREAM)
    except OSError:  # not there now; whoever asks it will tell
        return frozenset({(replica.host, replica.port)})
    hosts = {str(one[4][0]) for one in found}
    everywhere = hosts & {"0.0.0.0", "::"}  # noqa: S104 - compared, not listened at
    return frozenset(
        (host, replica.port) for host in hosts | ({"127.0.0.1", "::1"} if everywhere else set())
    )


def replica_keys(path: Path | None) -> dict[str, str]:
    """Return the keys of a private file: by address, and one for all others under "".

    A line is a key, or an address and its key; `#` begins a comment.

    Raises:
        UsageError: it cannot be read, is open to others, or a line is neither.
    """
    if path is None:
        return {}
    try:
        mode = path.stat().st_mode
        lines = read_keys(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        why = reason_of(error) if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"the key file cannot be read: {why}", subject=str(path)) from error
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(
            f"the key file is open to others: mode {stat.S_IMODE(mode):04o}, expected 0600",
            subject=str(path),
            hint=f"chmod 600 {path}",
        )
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        *address, key = line.split()
        name = replica_address(address[0]).address if len(address) == 1 else ""
        if len(address) > 1 or name in keys or not (key.isascii() and key.isprintable()):
            raise UsageError(
                f"expected a key, or an address and its key, in line {number}", subject=str(path)
            )
        keys[name] = key
    if not keys:
        raise UsageError("the key file holds no key", subject=str(path))
    return keys
