"""What is made of the secret of a start: cookies, LLaVA's keys, and salts. Without I/O.

Nothing of it is kept: each is signed with a secret that every start draws anew, and names the key
that it was made for. So it is worth nothing after the start, nothing without the key, which is
looked up each time, and a gateway that is replaced during a start still knows it.

Source: RFC 2104 (HMAC).
"""

import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

RENEW_S = 600
"""A cookie older than this is replaced while its page is in use."""
IDLE_S = 12 * 3600
LONGEST_S = 7 * 24 * 3600
ANY_COOKIE = r"\bllava-pack-[0-9a-f]{12}(?==)"
"""The name of a cookie of any start."""
SECRET_SHAPES = (
    r"\blp_[0-9a-f]{12}_[A-Za-z0-9_-]{43}",
    r"(?<=/llava/)[a-z0-9-]+\.[0-9a-f]{32}",
    r"(?<=\bllava-pack-)[0-9a-f]{12}=[^;\s\"']+",
)
"""Patterns of a key, of LLaVA's key in a path, and of a cookie with its name: for who redacts."""
_MAC_CHARS, _PATH_CHARS, _SALT_CHARS, _NAME_CHARS = 64, 32, 32, 12
_COOKIE = re.compile(rf"([a-z0-9-]{{1,32}})\.(\d{{1,12}})\.(\d{{1,12}})\.[0-9a-f]{{{_MAC_CHARS}}}")


@dataclass(frozen=True, slots=True)
class Session:
    """What a valid cookie says.

    Attributes:
        key_id: of the key that it was given for.
        began: UTC seconds of the login.
        seen: UTC seconds of when this cookie was made.
    """

    key_id: str
    began: int
    seen: int

    def due(self, now_s: int) -> bool:
        """Return whether it is time for a newer cookie."""
        return now_s - self.seen >= RENEW_S


@dataclass(frozen=True, slots=True)
class StartSecret:
    """The secret of a start, and all that is derived from it."""

    value: str = field(repr=False)

    @property
    def cookie_name(self) -> str:
        """The cookie's name; it differs by start, since a browser shares cookies among ports."""
        return f"llava-pack-{self._mac('name')[:_NAME_CHARS]}"

    def cookie(self, session: Session) -> str:
        """Return the cookie of a session."""
        told = f"{session.key_id}.{session.began}.{session.seen}"
        return f"{told}.{self._mac('cookie', told)}"

    def session(self, cookie: str, now_s: int) -> Session | None:
        """Return the session of a cookie, None where it was not made here or its time is over."""
        found = _COOKIE.fullmatch(cookie)
        if found is None:
            return None
        session = Session(found[1], int(found[2]), int(found[3]))
        if not same(cookie, self.cookie(session)):
            return None
        over = now_s - session.seen >= IDLE_S or now_s - session.began >= LONGEST_S
        return None if over else session

    def llava_key(self, key_id: str) -> str:
        """Return what stands in the path of LLaVA's own clients for a key."""
        return f"{key_id}.{self._mac('llava', key_id)[:_PATH_CHARS]}"

    def salt(self, key_id: str) -> str:
        """Return what keeps apart what an engine computed for a key; nobody can guess it."""
        return self._mac("salt", key_id)[:_SALT_CHARS]

    def _mac(self, purpose: str, told: str = "") -> str:
        message = f"{purpose}\0{told}".encode()
        return hmac.new(self.value.encode(), message, hashlib.sha256).hexdigest()


def cookies(header: str, name: str) -> Iterator[str]:
    """Yield the values that a Cookie header has under a name.

    >>> list(cookies("a=1; b=2; a=3", "a"))
    ['1', '3']
    """
    for pair in header.split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name:
            yield value


def same(offered: str, expected: str) -> bool:
    """Compare in constant time, whatever the lengths; nothing is never the same.

    >>> same("a", "a"), same("", "")
    (True, False)
    """
    ours, theirs = (
        hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        for text in (expected, offered)
    )
    return hmac.compare_digest(ours, theirs) and bool(offered)
