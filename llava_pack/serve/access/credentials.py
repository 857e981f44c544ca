"""Tokens and keys: made, read and required according to where the gateway listens."""

import ipaddress
import platform
import stat
from dataclasses import dataclass
from pathlib import Path

from llava_pack.format.errors import UsageError
from llava_pack.format.text import visible
from llava_pack.serve.access.kept_token import KeptToken
from llava_pack.serve.access.key import Key
from llava_pack.serve.access.key_store import KeyStore
from llava_pack.serve.access.policy import AccessPolicy, keys_of_file, read_keys
from llava_pack.serve.access.public_name import NO_NAME, PublicName

_MIN_KEY_CHARS = 16


@dataclass(frozen=True, kw_only=True)
class ServeCredentials:
    """What a run accepts."""

    token: str
    """The token of this start; empty where none is asked for."""
    policy: AccessPolicy


def credentials(
    host: str,
    *,
    token: bool,
    key_file: Path | None = None,
    key_store: Path | None = None,
    name: PublicName = NO_NAME,
    kept: KeptToken | None = None,
) -> ServeCredentials:
    """Return the token of this start and the policy that asks for it.

    Args:
        host: what the gateway listens on; a Unix socket counts as loopback.
        token: whether a token is asked for.
        key_file: API keys that are accepted beside the token, one a line.
        key_store: keys of people, which a running server sees come and go.
        name: how it is reached by other names than loopback's.
        kept: the token of earlier starts, None for one of this start alone.

    Raises:
        UsageError: another address than loopback without any key, or without any check; or a
            file holds a short key or none, is open to others, or cannot be read; or other files
            lie beside the store of keys.
    """
    loopback = is_loopback(host)
    stored = _stored(key_store) if key_store is not None else ()
    if not loopback and not (token and (key_file is not None or stored)):
        raise UsageError(
            f"{host} is reachable from other machines, which requires keys",
            subject="--host",
            hint="keep to loopback and use the ssh tunnel, or run llava-pack keys add NAME",
        )
    keys = _keys(key_file) if key_file is not None else ()
    secret = kept or KeptToken()
    made = secret.token if token else ""
    names = frozenset() if loopback else frozenset({platform.node().lower()})
    policy = AccessPolicy(
        secrets=(made,) if token else None,
        keys=keys,
        key_store=str(key_store) if key_store is not None else "",
        host_names=names,
        any_address=not loopback,
        name=name,
        start_secret=secret.start_secret,
    )
    return ServeCredentials(token=made, policy=policy)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach what listens on `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _stored(path: Path) -> tuple[Key, ...]:
    """Return the keys of a store, whose folder is its own.

    The file is replaced as a whole, so what serves is let through to its folder and not to the file
    alone: whatever else lay there would stand within the fence.
    """
    keys = KeyStore(path).read()
    try:
        beside = [one.name for one in path.parent.iterdir()]
    except OSError:
        beside = []
    if others := sorted(name for name in beside if not name.lstrip(".").startswith(path.name)):
        raise UsageError(
            f"the keys' folder holds other files too, such as {visible(others[0])}: the server "
            "could read them",
            subject=str(path),
            hint="move the keys into a folder of their own, and pass it with --keys",
        )
    return keys


def _keys(path: Path) -> tuple[Key, ...]:
    try:
        mode = path.stat().st_mode
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("the API-key file cannot be read", subject=str(path)) from error
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(
            f"the API-key file is open to others: mode {stat.S_IMODE(mode):04o}, expected 0600",
            subject=str(path),
            hint=f"chmod 600 {path}",
        )
    keys = read_keys(text)
    if not keys or min(len(key) for key in keys) < _MIN_KEY_CHARS:
        raise UsageError(
            f"the API-key file needs keys of at least {_MIN_KEY_CHARS} characters, one per line",
            subject=str(path),
            hint=f"head -c 32 /dev/urandom | base64 > {path}",
        )
    return keys_of_file(text)
