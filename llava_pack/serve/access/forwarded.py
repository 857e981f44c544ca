"""How a request came through a proxy: what is believed of the headers that tell of it. Without I/O.

Everybody can send such headers, so they count only from the proxies that a person has listed, and
then the last word of each does: that is the one which the proxy itself wrote, behind whatever its
client had sent. A proxy moves nothing past a check: the name that it was asked for must be ours,
just as the one must by which it asks us.

Source: RFC 7239; RFC 9110, 5.3 (a repeated header is a list). X-Forwarded-* as the documentation
of nginx, Caddy, Traefik and Werkzeug's ProxyFix has them.
"""

import functools
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from llava_pack.format.errors import UsageError
from llava_pack.serve.access.public_name import (
    LOOPBACK_NAMES,
    UNIX,
    PublicName,
    host_name,
    read_root_path,
)

Headers = Sequence[tuple[bytes, bytes]]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_SCHEMES = frozenset({"http", "https"})
_PAIR = re.compile(r'\s*([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))\s*([;,]|$)', re.ASCII)
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d+)?|([0-9.]+):\d+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """How a request reached us, as far as that can be believed.

    Attributes:
        client: the address of who asks; empty for a Unix socket, which has none.
        scheme: in which they ask.
        host: which name they ask: that of the Host header where no proxy says another.
        path: below which route, without what stands before it outside.
        root_path: what stands before it for whoever asks; empty where that is not known.
    """

    client: str
    scheme: str
    host: str
    path: str
    root_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    """What a proxy says; empty where it says nothing, or nothing that can be read."""

    addresses: tuple[str, ...] = ()
    scheme: str = ""
    host: str = ""
    prefix: str = ""


def arrival(
    name: PublicName, *, peer: str | None, scheme: str, headers: Headers, path: str
) -> Arrival:
    """Return how a request came.

    Args:
        name: which proxies are listed, and what we are called.
        peer: the address that the connection comes from; None for a Unix socket.
        scheme: of the connection.
        headers: as they came.
        path: decoded once.
    """
    word = _word(headers) if _is_listed(name, peer) else _Word()
    host = word.host or _last(headers, b"host")
    public = bool(name.url) and host_name(host) == host_name(name.url.split("/")[2])
    prefix = name.root_path or word.prefix  # some proxies pass on a client's X-Forwarded-Prefix
    before, below = split_path(path, prefix)
    by_name = public if name.url else host_name(host) not in {*LOOPBACK_NAMES, ""}
    from_there = bool(name.url) and _last(headers, b"origin").lower() == name.origin
    return Arrival(
        client=_client(name, word.addresses, peer or ""),
        scheme=word.scheme or ("https" if public and name.secure else scheme),
        host=host,
        path=below,
        root_path=prefix if before or by_name or from_there or word.prefix == prefix else "",
    )


def split_path(path: str, prefix: str) -> tuple[str, str]:
    """Return what of a path stands outside, taken away once and as whole segments, and the rest.

    >>> split_path("/vlm/vlm/x", "/vlm"), split_path("/vlmx", "/vlm"), split_path("/vlm", "/vlm")
    (('/vlm', '/vlm/x'), ('', '/vlmx'), ('/vlm', ''))
    """
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        return prefix, path[len(prefix) :]
    return "", path


def _is_listed(name: PublicName, peer: str | None) -> bool:
    if peer is None:
        return UNIX in name.proxies
    address = _address(peer)
    return address is not None and any(
        address in _network(proxy) for proxy in name.proxies if proxy != UNIX
    )


def _word(headers: Headers) -> _Word:
    """Return what the nearest proxy says; with X-Forwarded-* there, Forwarded is not its own."""
    names = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-prefix")
    if any(header in names for header, _ in headers):
        addresses, scheme, host, prefix = (_listed(headers, header) for header in names)
        return _Word(
            addresses=tuple(addresses),
            scheme=_scheme(scheme),
            host=host[-1] if host else "",
            prefix=_prefix(prefix),
        )
    elements = _elements(",".join(_lines(headers, b"forwarded")))
    last = elements[-1] if elements else {}
    return _Word(
        addresses=tuple(element.get("for", "") for element in elements),
        scheme=_scheme([last.get("proto", "")]),
        host=last.get("host", ""),
    )


def _elements(text: str) -> list[dict[str, str]]:
    """Return the elements of Forwarded; none where one of them cannot be read."""
    elements: list[dict[str, str]] = [{}]
    at = 0
    while at < len(text):
        found = _PAIR.match(text, at)
        if found is None:
            return []
        quoted = re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else found[3]
        elements[-1][found[1].lower()] = quoted
        if found[4] == ",":
            elements.append({})
        at = found.end()
    return [element for element in elements if element]


def _client(name: PublicName, addresses: Sequence[str], peer: str) -> str:
    """Return the nearest address that is no listed proxy's; what is no address ends the way."""
    client = peer
    for text in reversed(addresses):
        address = _address(text)
        if address is None:
            break
        client = str(address)
        if not _is_listed(name, client):
            break
    return client


def _scheme(values: Sequence[str]) -> str:
    scheme = values[-1].lower() if values else ""
    return scheme if scheme in _SCHEMES else ""


def _prefix(values: Sequence[str]) -> str:
    try:
        return read_root_path(values[-1], "") if values else ""
    except UsageError:
        return ""


def _listed(headers: Headers, wanted: bytes) -> list[str]:
    """Return the members of a header that is a list, in their order."""
    return [part.strip() for part in ",".join(_lines(headers, wanted)).split(",") if part.strip()]


def _last(headers: Headers, wanted: bytes) -> str:
    return next(reversed(_lines(headers, wanted)), "")


def _lines(headers: Headers, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for header, value in headers if header == wanted]


def _address(text: str) -> Address | None:
    """Return an address, also from behind a port or within brackets; None where it is none."""
    within = _WITH_PORT.fullmatch(text)
    try:
        address = ipaddress.ip_address((within[1] or within[2]) if within else text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address.version == 6 else None
    return mapped or address


@functools.cache
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)
