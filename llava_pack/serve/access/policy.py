"""Who may ask: rules over headers, without I/O.

Loopback is open to every account of a shared server, and a web page on the laptop can send
requests into a tunnel. So every request shows a key (the token of this start, one of a person, or
the cookie that the login page got for either), names a host that is ours, and comes from our own
page, from one of a listed origin, or from no page at all; and the key must open the route. What
decides is the path and the headers as they came, never a rebuilt URL.

A listed origin's page asks with a key of its own: a cookie that the browser adds is not looked at.

Source: docs/explanation/threat-model.md; RFC 9110 (421); Fetch Metadata (Sec-Fetch-Site); Fetch,
"CORS-preflight request".
"""

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from llava_pack.serve.access.key import Key, digest_of, id_of
from llava_pack.serve.access.public_name import LOOPBACK_NAMES, NO_NAME, PublicName, host_name
from llava_pack.serve.access.scopes import (
    LLAVA_PREFIX,
    LLAVA_ROUTES,
    LOGIN_PATH,
    SCOPES,
    Route,
    Scope,
    route_of,
)
from llava_pack.serve.access.sessions import Session, StartSecret, cookies, same
from llava_pack.serve.caller import ANYONE, Caller

Verdict = Literal[
    "allowed", "preflight", "no-token", "expired", "wrong-scope", "no-route", "wrong-host",
    "wrong-origin",
]  # fmt: skip
_FORM_METHODS = frozenset({"GET", "HEAD"})
_PREFLIGHT = "access-control-request-method"
_SECRET_BYTES = 32
_BESIDE_ADMIN: tuple[Scope, ...] = tuple(scope for scope in SCOPES if scope != "admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRequest:
    """A request, as far as it decides who may ask.

    Attributes:
        path: as it came, decoded once.
        method: GET, POST and so on.
        headers: by lower-case name; of a repeated one the last.
        upstream_host: by which name a listed proxy asks us, where Host is what it was asked for.
    """

    path: str
    method: str
    headers: Mapping[str, str]
    upstream_host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What the policy says of a request.

    Attributes:
        verdict: whether it is taken, or why not.
        caller: who asks, as far as that is known.
        key: whose it is; None where no key is asked for, or none was shown.
        route: the row of the route; None where there is none.
        session: of the cookie that was shown, where it was one.
    """

    verdict: Verdict
    caller: Caller = ANYONE
    key: Key | None = None
    route: Route | None = None
    session: Session | None = None


@dataclass(frozen=True, kw_only=True)
class AccessPolicy:
    """What a request must show.

    Args:
        secrets: tokens of this start, which open everything; None asks for no key at all.
        start_secret: what cookies, LLaVA's keys and salts are derived from; drawn for each start.
        keys: keys beside the store's, of an API-key file.
        key_store: where the store of keys is; empty where there is none.
        host_names: names beside loopback's under which the server is reached.
        any_address: whether a bare IP address in Host is ours too, for listeners that face a
            network; a name that was rebound to our address is still refused.
        name: how it is reached by other names, through proxies, and from other web pages.
    """

    secrets: tuple[str, ...] | None = field(repr=False)
    start_secret: str = field(default_factory=lambda: secrets.token_hex(_SECRET_BYTES), repr=False)
    keys: tuple[Key, ...] = ()
    key_store: str = ""
    host_names: frozenset[str] = frozenset()
    any_address: bool = False
    name: PublicName = NO_NAME

    def judge(self, asked: AccessRequest, store: Mapping[str, Key], now_s: int) -> Ruling:
        """Return whether a request is taken, and who asks.

        Args:
            asked: the request.
            store: the store's keys as they are now, by id.
            now_s: UTC seconds.
        """
        host = asked.headers.get("host", "")
        by = host if asked.upstream_host is None else asked.upstream_host
        if not (self._ours(host) and self._ours(by)):
            return Ruling(verdict="wrong-host")
        from_ours = _from_our_page(host, asked.headers, self.name.origin)
        if not (from_ours or self.name.lists(asked.headers.get("origin", ""))):
            return Ruling(verdict="wrong-origin")
        if not from_ours and asked.method == "OPTIONS" and _PREFLIGHT in asked.headers:
            return Ruling(verdict="preflight")
        route = route_of(asked.path, asked.method)
        if asked.path == LOGIN_PATH and asked.method in _FORM_METHODS:
            return Ruling(verdict="allowed", route=route)
        key, session = self._shown(asked, store, now_s, by_cookie=from_ours)
        if key is None:
            return self._without_key(asked, route)
        return Ruling(
            verdict=_verdict(key, route, now_s, by_session=session is not None),
            caller=Caller(name=key.name, id=key.id, salt=self.derived.salt(key.id)),
            key=key,
            route=route,
            session=session,
        )

    def is_key(self, text: str, store: Mapping[str, Key]) -> bool:
        """Return whether a text is the whole of a key or token."""
        return self._offered(text, store) is not None

    @property
    def derived(self) -> StartSecret:
        """What is derived from this start's secret."""
        return StartSecret(self.start_secret)

    @property
    def llava_path(self) -> str:
        """Where LLaVA's own clients find their routes; empty where no token is asked for."""
        return self.llava_path_of(self.own[0]) if self.own else ""

    def llava_path_of(self, key: Key) -> str:
        """Return where LLaVA's own clients find their routes with a key."""
        return f"{LLAVA_PREFIX}{self.derived.llava_key(key.id)}"

    @cached_property
    def own(self) -> tuple[Key, ...]:
        """The tokens of this start, as keys."""
        names = ("token", *(f"token-{number}" for number in range(2, len(self.secrets or ()) + 1)))
        return tuple(
            Key(id=name, name=name, digest=digest_of(secret))
            for name, secret in zip(names, self.secrets or (), strict=False)
        )

    def _without_key(self, asked: AccessRequest, route: Route | None) -> Ruling:
        """Rule on a request that shows no key, or none that is known."""
        if self.secrets is not None:
            return Ruling(verdict="no-token", route=route)
        if route is None or (asked.path.startswith(LLAVA_PREFIX) and asked.method != "POST"):
            return Ruling(verdict="no-route")
        return Ruling(verdict="allowed", route=route)

    def _shown(
        self, asked: AccessRequest, store: Mapping[str, Key], now_s: int, *, by_cookie: bool
    ) -> tuple[Key | None, Session | None]:
        """Return the key that a request shows: in its path, in a header, or by a cookie."""
        if asked.path.startswith(LLAVA_PREFIX):
            return (self._in_path(asked.path, store) if asked.method == "POST" else None), None
        if (key := self._offered(offered_key(asked.headers), store)) is not None:
            return key, None
        if not by_cookie:
            return None, None
        cookie = next(cookies(asked.headers.get("cookie", ""), self.derived.cookie_name), "")
        session = self.derived.session(cookie, now_s)
        return (self._by_id(session.key_id, store), session) if session else (None, None)

    def _offered(self, text: str, store: Mapping[str, Key]) -> Key | None:
        """Return the key whose text was offered; every comparison takes the same time."""
        if not text:
            return None
        digest = digest_of(text)
        stored = store.get(id_of(text))
        tried = (*self.own, *self.keys, *((stored,) if stored else ()))
        return next((key for key in tried if hmac.compare_digest(key.digest, digest)), None)

    def _in_path(self, path: str, store: Mapping[str, Key]) -> Key | None:
        """Return the key that a path of LLaVA's own clients is for."""
        offered, _, route = path.removeprefix(LLAVA_PREFIX).partition("/")
        key = self._by_id(offered.partition(".")[0], store)
        expected = self.derived.llava_key(key.id if key else "")
        return key if same(offered, expected) and route in LLAVA_ROUTES else None

    def _by_id(self, key_id: str, store: Mapping[str, Key]) -> Key | None:
        known = {key.id: key for key in (*self.own, *self.keys)}
        return known.get(key_id) or store.get(key_id)

    def _ours(self, host: str) -> bool:
        name = host_name(host)
        ours = LOOPBACK_NAMES | self.host_names | self.name.hosts
        return name in ours or (self.any_address and _is_address(name))


def keys_of_file(text: str) -> tuple[Key, ...]:
    r"""Return the keys of an API-key file, of which only digests are kept: all scopes but admin.

    >>> [key.name for key in keys_of_file("# team\nabc\n\nxyz\n")]
    ['file-1', 'file-2']
    """
    return tuple(
        Key(id=name, name=name, digest=digest_of(secret), scopes=_BESIDE_ADMIN)
        for number, secret in enumerate(read_keys(text), start=1)
        for name in (f"file-{number}",)
    )


def read_keys(text: str) -> tuple[str, ...]:
    r"""Return the keys of an API-key file: one a line, `#` begins a comment.

    >>> read_keys("# team\nabc\n\n")
    ('abc',)
    """
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def _verdict(key: Key, route: Route | None, now_s: int, *, by_session: bool) -> Verdict:
    if key.expired(now_s):
        return "expired"
    if route is None:
        return "no-route"
    opened = key.opens(route.needs) or (by_session and route.by_page and key.opens("page"))
    return "allowed" if opened else "wrong-scope"


def offered_key(headers: Mapping[str, str]) -> str:
    """Return the text that a request's headers show as a key; empty where there is none."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _from_our_page(host: str, headers: Mapping[str, str], own: str) -> bool:
    """Return whether a request comes from our own page, or from none.

    Args:
        host: as it was asked for.
        headers: of the request.
        own: the origin of the public name, whose proxy may ask for another host; empty for none.
    """
    origin = headers.get("origin")
    if origin is not None:
        ours = {f"http://{host.lower()}", f"https://{host.lower()}", *([own] if own else [])}
        return origin.lower() in ours
    site = headers.get("sec-fetch-site", "none")
    return site in {"none", "same-origin"} or headers.get("sec-fetch-mode") == "navigate"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
