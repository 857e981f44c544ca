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
