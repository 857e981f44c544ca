"""Keys of people: what is known of one, how it looks, and how it is kept. Without I/O.

A key is `lp_<id>_<secret>`. The id finds it and is no secret; it is random, so that it says
nothing of whose it is. The secret is 256 random bits, which nobody finds by trying: its SHA-256 is
kept, and a slow hash, which stretches what people make up and remember, would only make every
request slow.

Source: docs/how-to/keys.md; NIST SP 800-63B, 5.1.1.2, asks for stretching of memorised secrets.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

from llava_pack.format.errors import UsageError
from llava_pack.serve.access.scopes import SCOPES, Scope

PREFIX = "lp_"
MAX_NAME_CHARS = 64
_ID_BYTES, _SECRET_BYTES = 6, 32
_KEY = re.compile(rf"{PREFIX}([0-9a-f]{{{2 * _ID_BYTES}}})_[A-Za-z0-9_-]{{43}}", re.ASCII)
_ID = re.compile(rf"[0-9a-f]{{{2 * _ID_BYTES}}}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._@-]{{0,{MAX_NAME_CHARS - 1}}}", re.ASCII)
_OURS = re.compile(r"anyone|token(-\d+)?|file-\d+")
"""Names of callers whose keys are not in the store."""
_QUOTA = re.compile(r"(\d{1,12})\s*/\s*(min|day)", re.ASCII)
_SPAN = re.compile(r"(\d{1,5})([hd])", re.ASCII)
_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How much a key may ask; 0 sets no bound."""

    requests_per_min: int = 0
    tokens_per_day: int = 0

    @property
    def text(self) -> str:
        """How it is written on the command line.

        >>> Quota(requests_per_min=60, tokens_per_day=1000).text
        '60/min,1000/day'
        """
        given = (self.requests_per_min, "min"), (self.tokens_per_day, "day")
        return ",".join(f"{count}/{unit}" for count, unit in given if count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key, without its secret.

    Attributes:
        id: what it is found by.
        name: whose it is, for people and logs.
        digest: SHA-256 of the whole key, as hex.
        scopes: what it opens.
        quota: how much it may ask.
        created: UTC seconds.
        expires: UTC seconds; 0 never.
    """

    id: str
    name: str
    digest: str
    scopes: tuple[Scope, ...] = SCOPES
    quota: Quota = Quota()
    created: int = 0
    expires: int = 0

    def expired(self, now_s: float) -> bool:
        """Return whether its time is over."""
        return bool(self.expires) and now_s >= self.expires

    def opens(self, needs: Scope | None) -> bool:
        """Return whether it opens a route."""
        return needs is None or needs in self.scopes

    def to_fields(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "id": self.id,
            "name": self.name,
            "digest": self.digest,
            "scopes": list(self.scopes),
            "requests_per_min": self.quota.requests_per_min,
            "tokens_per_day": self.quota.tokens_per_day,
            "created": self.created,
            "expires": self.expires,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "Key":
        """Return a key from JSON values.

        Raises:
            ValueError: a value is not what `to_fields` writes.
        """
        try:
            key = cls(
                id=_text(fields["id"]),
                name=_text(fields["name"]),
                digest=_text(fields["digest"]),
                scopes=ordered(fields["scopes"]),
                quota=Quota(
                    requests_per_min=_count(fields["requests_per_min"]),
                    tokens_per_day=_count(fields["tokens_per_day"]),
                ),
                created=_count(fields["created"]),
                expires=_count(fields["expires"]),
            )
        except (KeyError, TypeError, UsageError) as error:
            raise ValueError(f"not a key: {error}") from error
        if not (_DIGEST.fullmatch(key.digest) and _NAME.fullmatch(key.name)):
            raise ValueError("not a key: its name or digest")
        return key


def digest_of(text: str) -> str:
    """Return the SHA-256 of a key, as hex.

    >>> digest_of("a")[:8]
    'ca978112'
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def id_of(text: str) -> str:
    """Return the id in a key, empty where it has not the form of one.

    >>> id_of("lp_0123456789ab_" + "x" * 43), id_of("lp_0123456789ab_short")
    ('0123456789ab', '')
    """
    found = _KEY.fullmatch(text)
    return found[1] if found else ""


def new_key(
    name: str, *, scopes: Iterable[Scope], quota: Quota, created: int, expires: int
) -> tuple[Key, str]:
    """Return a key as it is kept, and the text that only its holder gets to know."""
    key_id = secrets.token_hex(_ID_BYTES)
    text = f"{PREFIX}{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    kept = Key(
        id=key_id,
        name=name,
        digest=digest_of(text),
        scopes=ordered(scopes),
        quota=quota,
        created=created,
        expires=expires,
    )
    return kept, text


def checked_name(name: str) -> str:
    """Return a name that a key may have.

    Raises:
        UsageError: it has other characters, is too long, or is one that logs use for others.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"a key's name has letters, digits and ._@-, at most {MAX_NAME_CHARS}, got {name!r}",
            subject="NAME",
        )
    if _OURS.fullmatch(name):
        raise UsageError(f"{name} is reserved for a key that is not in the store", subject="NAME")
    return name


def ordered(names: Iterable[str]) -> tuple[Scope, ...]:
    """Return scopes in their order, each once.

    Raises:
        UsageError: one is unknown, or there is none.

    >>> ordered(["page", "ask", "ask"])
    ('ask', 'page')
    """
    wanted = {name.strip() for name in names} - {""}
    if (unknown := sorted(wanted - set(SCOPES))) or not wanted:
        got = ", ".join(unknown) or "none"
        raise UsageError(f"expected some of {', '.join(SCOPES)}, got {got}", subject="--scope")
    return tuple(scope for scope in SCOPES if scope in wanted)


def read_quota(texts: Iterable[str]) -> Quota:
    """Return a quota: `N/min` are requests, `N/day` are tokens; together with a comma.

    Raises:
        UsageError: it is written in another way, or twice.

    >>> read_quota(["60/min,100000/day"])
    Quota(requests_per_min=60, tokens_per_day=100000)
    """
    found: dict[str, int] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        match = _QUOTA.fullmatch(part)
        if match is None or int(match[1]) < 1 or match[2] in found:
            raise UsageError(
                f"expected N/min for requests, N/day for tokens, each once, got {part!r}",
                subject="--quota",
                hint="for example --quota 60/min --quota 200000/day",
            )
        found[match[2]] = int(match[1])
    return Quota(requests_per_min=found.get("min", 0), tokens_per_day=found.get("day", 0))


def read_expiry(text: str, now_s: float) -> int:
    """Return when a key ends, in UTC seconds: `90d`, `12h`, or a day, of which it sees the end.

    Raises:
        UsageError: it is written in another way, or is over.

    >>> read_expiry("2h", 1000.0), read_expiry("1970-01-02", 1000.0)
    (8200, 172800)
    """
    if span := _SPAN.fullmatch(text):
        ends = int(now_s) + int(span[1]) * (3600 if span[2] == "h" else 24 * 3600)
    else:
        try:
            day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
            after = datetime.combine(day, time(tzinfo=UTC)) + timedelta(days=1)
        except (ValueError, OverflowError) as error:
            raise UsageError(
                f"expected days, hours or a date, got {text!r}",
                subject="--expires",
                hint="for example --expires 90d, 12h or 2030-12-31",
            ) from error
        ends = int(after.timestamp())
    if ends <= now_s:
        raise UsageError(f"{text} is in the past", subject="--expires")
    return ends


def to_document(keys: Iterable[Key]) -> dict[str, Any]:
    """Return the store's file as JSON values."""
    return {"schema": _SCHEMA, "keys": [key.to_fields() for key in keys]}


def from_document(document: Any) -> tuple[Key, ...]:
    """Return the keys of a store's file.

    Raises:
        ValueError: it is not what `to_document` writes, or a name or an id appears twice.
    """
    if not isinstance(document, Mapping) or document.get("schema") != _SCHEMA:
        raise ValueError("not a key store of this version")
    listed = document.get("keys")
    if not isinstance(listed, list) or not all(isinstance(fields, Mapping) for fields in listed):
        raise ValueError("not a list of keys")
    keys = tuple(Key.from_fields(fields) for fields in listed)
    if not all(_ID.fullmatch(key.id) for key in keys):
        raise ValueError("not a key's id")
    if taken := next((key.name for key in keys if _OURS.fullmatch(key.name)), ""):
        raise ValueError(f"{taken} is reserved for a key that is not in the store")
    if len({key.id for key in keys}) < len(keys) or len({key.name for key in keys}) < len(keys):
        raise ValueError("a name or an id appears twice")
    return keys


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {value!r:.40}")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"expected a non-negative number, got {value!r:.40}")
    return value
