"""Through which proxy an address is asked: one rule for the Hub's client, the downloader and uv.

`http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` count in both cases, the lower one first. A
SOCKS proxy always resolves names itself, because half of the programs cannot do it otherwise.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from llava_pack.format.errors import UsageError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_PORTS = {"http": 80, "https": 443, "socks5h": 1080}
_SOCKS = {"socks": "socks5h", "socks5": "socks5h"}
"""`socks` is what desktops write for version 5."""
_HOST = re.compile(r"[a-z0-9_][a-z0-9_.-]*")
_PORT_AT_END = re.compile(r"(?P<host>[^:]+|\[[^\]]*\]):(?P<port>\d{1,5})")
_STARRED = re.compile(r"(\d+\.){1,3}\*")
_PROXY_HINT = (
    "set it to an address as http://proxy.corp:3128 or socks5h://127.0.0.1:1080; in a user or a "
    "password write @ as %40, # as %23, / as %2F, % as %25"
)
_DIRECT_HINT = (
    "separate names (.corp), addresses (10.1.2.3, ::1) and networks (10.0.0.0/8) by commas"
)


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """One proxy.

    Attributes:
        scheme: http, https or socks5h.
        host: without brackets.
        origin: the setting that names it.
    """

    scheme: str
    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)
    origin: str

    @property
    def address(self) -> str:
        """Return it without user and password."""
        return f"{self.scheme}://{self._place}"

    @property
    def url(self) -> str:
        """Return it whole, as other programs are told of it."""
        if not (self.user or self.password):
            return self.address
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"{self.scheme}://{login}@{self._place}"

    @property
    def _place(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Direct:
    """What is asked without a proxy: a network, or a name and all below it; empty means all."""

    network: Network | None = None
    name: str = ""
    port: int | None = None

    def has(self, host: str, port: int) -> bool:
        """Say whether a host, in lower case and without brackets, is meant."""
        if self.port not in {None, port}:
            return False
        if self.network is not None:
            address = _address(host)
            return address is not None and address in self.network
        return not self.name or host == self.name or host.endswith(f".{self.name}")

    def __str__(self) -> str:
        """Return it as uv understands it, which knows no ports."""
        if self.network is None:
            return self.name or "*"
        alone = self.network.num_addresses == 1
        return str(self.network.network_address if alone else self.network)


@dataclass(frozen=True, kw_only=True)
class Proxies:
    """The rule: a proxy by scheme, and what goes without."""

    http: Proxy | None = None
    https: Proxy | None = None
    direct: tuple[Direct, ...] = ()

    def proxy_for(self, url: str) -> Proxy | None:
        """Return the proxy that an http or https address is asked through."""
        parts = urlsplit(url)
        chosen = self.http if parts.scheme == "http" else self.https
        host = (parts.hostname or "").rstrip(".")
        port = parts.port or _PORTS.get(parts.scheme, 0)
        return None if any(one.has(host, port) for one in self.direct) else chosen

    def variables(self) -> dict[str, str]:
        """Return the same for uv."""
        told = {"HTTP_PROXY": self.http, "HTTPS_PROXY": self.https}
        urls = {name: proxy.url for name, proxy in told.items() if proxy is not None}
        return urls | ({"NO_PROXY": ",".join(map(str, self.direct))} if self.direct else {})


def read_proxies(environ: Mapping[str, str], system: Mapping[str, str] | None = None) -> Proxies:
    """Return what an environment says, else what the system is set to.

    Args:
        environ: variables.
        system: by `http` and `https`, from the settings of Windows or macOS.

    Raises:
        UsageError: a value cannot be understood; it is named, and never shown.
    """
    common = _named(environ, "all")
    http, https = _named(environ, "http") or common, _named(environ, "https") or common
    if http is None and https is None:
        http, https = (_proxy((system or {}).get(one, ""), _SYSTEM) for one in ("http", "https"))
    variable, text = _value(environ, "no")
    entries = (one for one in re.split(r"[,\s]+", text) if one)
    return Proxies(
        http=http, https=https, direct=tuple(_direct(entry, variable) for entry in entries)
    )


_SYSTEM = "proxy settings of the system"


def _value(environ: Mapping[str, str], kind: str) -> tuple[str, str]:
    """Return a variable's name and its value; an empty one in lower case switches it off."""
    lower = f"{kind}_proxy"
    variable = lower if lower in environ else lower.upper()
    return variable, environ.get(variable, "").strip()


def _named(environ: Mapping[str, str], kind: str) -> Proxy | None:
    variable, text = _value(environ, kind)
    return _proxy(text, variable)


def _proxy(text: str, origin: str) -> Proxy | None:
    """Return a proxy.

    Raises:
        UsageError: it is not written as one.

    >>> _proxy("me:p%40ss@proxy.corp:3128", "HTTP_PROXY").password
    'p@ss'
    """
    if not text:
        return None
    scheme, slashes, rest = text.partition("://")
    scheme, rest = (scheme.lower(), rest) if slashes else ("http", text)
    scheme = _SOCKS.get(scheme, scheme)
    if scheme not in _PORTS:
        known = ", ".join([*_PORTS, *_SOCKS])
        raise UsageError(
            f"expected a proxy by {known}, got {scheme!r:.20}", subject=origin, hint=_PROXY_HINT
        )
    login, _, place = rest.removesuffix("/").rpartition("@")
    user, _, password = login.partition(":")
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname or "", parts.port or _PORTS[scheme]
    except ValueError:
        host, port = "", 0
    plain = not (set(place) & set("/?#\\ ")) and not (set(login) & set("/?# "))
    if not plain or not (_HOST.fullmatch(host) or _address(host)):
        raise UsageError(
            "expected the address of a proxy, got what cannot be read as one",
            subject=origin,
            hint=_PROXY_HINT,
        )
    return Proxy(
        scheme=scheme,
        host=host,
        port=port,
        user=unquote(user),
        password=unquote(password),
        origin=origin,
    )


def _direct(entry: str, variable: str) -> Direct:
    """Return what an entry of `no_proxy` means.

    Raises:
        UsageError: it is neither a name, nor an address, nor a network.

    >>> _direct("[fd00::]/8", "no_proxy").network
    IPv6Network('fd00::/8')
    """
    text = entry.lower().rpartition("://")[2]
    if text == "*":
        return Direct()
    if _STARRED.fullmatch(text):
        known = text.count(".")
        text = f"{text.removesuffix('*')}{'.'.join(['0'] * (4 - known))}/{8 * known}"
    if network := _network(text):
        return Direct(network=network)
    port = None
    if match := _PORT_AT_END.fullmatch(text):
        text, port = match["host"], int(match["port"])
        if network := _network(text):
            return Direct(network=network, port=port)
    name = text.removeprefix("*").strip(".")
    if not _HOST.fullmatch(name):
        raise UsageError(
            f"expected a name, an address or a network, got {entry!r:.60}",
            subject=variable,
            hint=_DIRECT_HINT,
        )
    return Direct(name=name, port=port)


def _network(text: str) -> Network | None:
    """Return a network or a single address, with brackets or without."""
    address, slash, prefix = text.partition("/")
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        return ipaddress.ip_network(f"{bare}{slash}{prefix}", strict=False)
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
