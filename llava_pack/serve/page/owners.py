"""What belongs to whom on the page: uploads, sessions and the events that run in them.

A path that nobody can guess is no permission: it is in logs, in a screen that was shared, in an
export. So an upload is used and shown only for the browser that brought it, under the key that it
showed; a session is read and ended only by the one that began it.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")
_UPLOADS = 4096
_SESSIONS = 1024
_EVENTS = 64
"""How many are remembered: uploads and sessions of a key, events of a session. The oldest go."""
_UPLOAD_BYTES = 1 << 30
"""What the uploads of a key may take of the disk. The oldest go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """One browser under one key."""

    caller: str
    """The key's id: a name can be given again."""
    browser: str
    """What the page's cookie says; empty for a client without one."""


@dataclass
class _Session:
    owner: Owner
    events: OrderedDict[str, None] = field(default_factory=OrderedDict)


@dataclass
class _Holdings:
    uploads: OrderedDict[tuple[str, str], int] = field(default_factory=OrderedDict)
    """Bytes of each, by browser and path."""
    sessions: OrderedDict[str, _Session] = field(default_factory=OrderedDict)


class Owners:
    """Remembers who brought and who began what, each key within bounds of its own."""

    def __init__(self) -> None:
        self._holdings: dict[str, _Holdings] = {}

    def brought(self, owner: Owner, sizes: Mapping[str, int]) -> list[str]:
        """Note uploads; the same file brought by several belongs to each of them.

        Args:
            owner: who brought them.
            sizes: bytes of each, by path.

        Returns:
            Files that made room, and are nobody's any more.
        """
        uploads, dropped = self._of(owner).uploads, []
        for path, size in sizes.items():
            uploads[owner.browser, path] = size
            uploads.move_to_end((owner.browser, path))
        while len(uploads) > _UPLOADS or sum(uploads.values()) > _UPLOAD_BYTES:
            (_, path), _ = uploads.popitem(last=False)
            dropped.append(path)
        if not dropped:
            return []
        held = {path for one in self._holdings.values() for _, path in one.uploads}
        return [path for path in dict.fromkeys(dropped) if path not in held]

    def may_use(self, owner: Owner, path: str) -> bool:
        """Return whether a file is an upload of this browser."""
        held = self._holdings.get(owner.caller)
        return held is not None and (owner.browser, path) in held.uploads

    def claim(self, owner: Owner, session: str) -> bool:
        """Return whether a session is this browser's; a new one becomes it."""
        began = self._session(session)
        if began is None:
            began = _Session(owner)
        elif began.owner != owner:
            return False
        _keep(self._of(owner).sessions, session, began, _SESSIONS)
        return True

    def holds(self, owner: Owner, session: str) -> bool:
        """Return whether a session was begun by this browser."""
        began = self._session(session)
        return began is not None and began.owner == owner

    def began(self, session: str, event: str) -> None:
        """Note an event that waits or runs in a session."""
        found = self._session(session)
        if found is not None:
            _keep(found.events, event, None, _EVENTS)

    def runs(self, owner: Owner, session: str, event: str) -> bool:
        """Return whether an event is one of a session of this browser."""
        found = self._session(session)
        return found is not None and found.owner == owner and event in found.events

    def _of(self, owner: Owner) -> _Holdings:
        return self._holdings.setdefault(owner.caller, _Holdings())

    def _session(self, session: str) -> _Session | None:
        found = (held.sessions.get(session) for held in self._holdings.values())
        return next((each for each in found if each is not None), None)


def _keep(kept: OrderedDict[_K, _V], key: _K, value: _V, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
