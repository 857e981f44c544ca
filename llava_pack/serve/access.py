"""Who may ask: rules over headers, without I/O.

Loopback is open to every account of a shared server, and a web page on the laptop can send
requests into a tunnel. So every request carries the token of this start (a header, or the cookie
that the login page got for it), names a host that is ours, and comes from our own page or from
no page at all. What decides is the path and the headers as they came, never a rebuilt URL.

Source: docs/explanation/threat-model.md; RFC 9110 (421); Fetch Metadata (Sec-Fetch-Site).
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from llava_pack.serve.caller import ANYONE, Caller

LOGIN_PATH = "/login"
LLAVA_PREFIX = "/llava/"
"""Before LLaVA's own routes, with a key of their own, for clients that can send no header."""
LLAVA_ROUTES = frozenset(
    {"refresh_all_workers", "list_models", "get_worker_address", "worker_get_status",
     "worker_generate_stream", "register_worker", "receive_heart_beat"}
)  # fmt: skip
Verdict = Literal["allowed", "no-token", "wrong-host", "wrong-origin"]
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, kw_only=True)
class AccessPolicy:
    """What a request must show.

    Args:
        secrets: tokens and API keys that are accepted; None asks for none.
        host_names: names beside loopback's under which the server is reached.
        any_address: whether a bare IP address in Host is ours too, for listeners that face a
            network; a name that was rebound to our address is still refused.
    """

    secrets: tuple[str, ...] | None
    host_names: frozenset[str] = frozenset()
    any_address: bool = False

    def judge(self, path: str, method: str, headers: Mapping[str, str]) -> Verdict:
        """Return whether a request is taken, or why not.

        Args:
            path: as it came, decoded once.
            method: GET, POST and so on.
            headers: by lower-case name; of a repeated one the last.
        """
        host = headers.get("host", "")
        if not self._ours(host):
            return "wrong-host"
        if not _from_our_page(host, headers):
            return "wrong-origin"
        if path == LOGIN_PATH and method in {"GET", "HEAD"}:
            return "allowed"
        if path.startswith(LLAVA_PREFIX):
            return "allowed" if method == "POST" and self._opens(path) else "no-token"
        return "allowed" if self._known(headers) else "no-token"

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Return who sends a request that was allowed.

        Args:
            headers: as `judge` takes them.
        """
        offered = _offered(headers)
        for number, secret in enumerate(self.secrets or ()):
            if _same(offered, secret):
                return Caller(name=f"key {number}" if number else "token")
        return Caller(name="token") if self.secrets else ANYONE

    @property
    def llava_path(self) -> str:
        """Where LLaVA's own clients find their routes; empty where no token is asked for."""
        return f"{LLAVA_PREFIX}{self._session('llava')[:32]}" if self.secrets else ""

    def _opens(self, path: str) -> bool:
        """Return whether a path's key is that of LLaVA's routes, and it is one of them."""
        key, _, route = path.removeprefix(LLAVA_PREFIX).partition("/")
        expected = self.llava_path.removeprefix(LLAVA_PREFIX)
        return route in LLAVA_ROUTES and (self.secrets is None or _same(key, expected))

    @property
    def cookie_name(self) -> str:
        """The cookie's name; it differs by start, since a browser shares cookies among ports."""
        return f"llava-pack-{self._session('name')[:12]}"

    @property
    def cookie_value(self) -> str:
        """What the cookie holds: made from the token, and not the token."""
        return self._session("value")

    def _session(self, purpose: str) -> str:
        secret = self.secrets[0] if self.secrets else ""
        return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).hexdigest()

    def _ours(self, host: str) -> bool:
        name, _, port = host.rpartition(":") if _has_port(host) else (host, "", "")
        if port and not (port.isascii() and port.isdigit()):
            return False
        name = name.lower()
        return name in _LOOPBACK_NAMES | self.host_names or (self.any_address and _is_address(name))

    def _known(self, headers: Mapping[str, str]) -> bool:
        if self.secrets is None:
            return True
        offered = _offered(headers)
        if any(_same(offered, secret) for secret in self.secrets):
            return True
        return _same(_cookie(headers, self.cookie_name), self.cookie_value)


def read_keys(text: str) -> tuple[str, ...]:
    r"""Return the keys of an API-key file: one a line, `#` begins a comment.

    >>> read_keys("# team\nabc\n\n")
    ('abc',)
    """
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def _same(offered: str, expected: str) -> bool:
    """Compare in constant time, whatever the lengths."""
    ours, theirs = (hashlib.sha256(text.encode()).digest() for text in (expected, offered))
    return hmac.compare_digest(ours, theirs) and bool(offered)


def _offered(headers: Mapping[str, str]) -> str:
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _cookie(headers: Mapping[str, str], name: str) -> str:
    for pair in headers.get("cookie", "").split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name:
            return value
    return ""


def _from_our_page(host: str, headers: Mapping[str, str]) -> bool:
    origin = headers.get("origin")
    if origin is not None:
        return origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"}
    site = headers.get("sec-fetch-site", "none")
    return site in {"none", "same-origin"} or headers.get("sec-fetch-mode") == "navigate"


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
