"""Who asks: what the guard found out about a request, for everything behind it."""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

_KEY = "caller"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The holder of one key.

    Attributes:
        name: what a log calls the key; never the key.
        id: of the key, which tells it from another that had the name before; empty for anyone.
        salt: keeps what was computed for one key from being seen by another; empty shares it.
    """

    name: str = "anyone"
    id: str = ""
    salt: str = ""

    def note(self, scope: MutableMapping[str, Any]) -> None:
        """Write this caller down for the routes behind the guard."""
        scope.setdefault("state", {})[_KEY] = self


ANYONE = Caller()
"""Where no key is asked for, and where no guard stands in front."""


def is_known(scope: MutableMapping[str, Any]) -> bool:
    """Return whether the guard let a request through."""
    return _KEY in scope.get("state", {})


def caller_of(scope: MutableMapping[str, Any]) -> Caller:
    """Return who asks, as the guard wrote it down.

    >>> scope = {}
    >>> Caller(name="ann").note(scope)
    >>> caller_of(scope).name, caller_of({}).name
    ('ann', 'anyone')
    """
    caller = scope.get("state", {}).get(_KEY)
    return caller if isinstance(caller, Caller) else ANYONE


def root_url(scope: MutableMapping[str, Any]) -> str:
    """Return where a client found this server, without a slash at its end.

    The guard has let only a Host of ours through.

    >>> scope = {"scheme": "https", "headers": [(b"host", b"llava.corp")], "root_path": "/vlm"}
    >>> root_url(scope)
    'https://llava.corp/vlm'
    """
    host = dict(scope["headers"])[b"host"].decode("latin-1")
    return f"{scope.get('scheme', 'http')}://{host}{scope.get('root_path', '')}"
