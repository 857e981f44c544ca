"""A name of its own: under which names, below which path and for which web pages a server answers.

What a person writes is checked here once, so that behind it names, origins and paths are compared
and never parsed again: each has one spelling, the one in which browsers send it.

Source: RFC 3986, 3.2.2 and 6.2.2 (hosts, case); RFC 6454, 6.2 (origins); ASGI 3.0, `root_path`.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from llava_pack.format.errors import UsageError
from llava_pack.format.text import visible
from llava_pack.serve.access.scopes import FIRST_SEGMENTS

ANY_ORIGIN = "*"
UNIX = "unix"
"""Stands for whoever connects to the Unix socket, who has no address."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
MAX_PATH_CHARS = 256
_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", re.ASCII)
# What no proxy, cookie or router reads in two ways: no escapes, no empty or dotted segments.
_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9_.~@+-]+)+", re.ASCII)
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@\s\\]+)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class PublicName:
    """How a server is reached when it is not by loopback, each in its one spelling.

    Attributes:
        url: what people open, without a slash at its end; empty where it has no such name.
        hosts: names that are ours beside loopback's, `[…]` around an IPv6 address.
        root_path: what stands before every path outside; empty where nothing does.
        origins: of other web pages that may ask, each with a key of its own; `*` is every page.
        proxies: networks whose word counts on who asks and how; `unix` is the Unix socket.
    """

    url: str = ""
    hosts: frozenset[str] = frozenset()
    root_path: str = ""
    origins: frozenset[str] = frozenset()
    proxies: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """The origin of our own page under the public name; empty where there is none."""
        return self.url.removesuffix(self.root_path) if self.url else ""

    @property
    def secure(self) -> bool:
        """Whether it is reached by https."""
        return self.url.startswith("https:")

    def lists(self, origin: str) -> bool:
        """Return whether a web page of another origin may ask."""
        return bool(origin) and (ANY_ORIGIN in self.origins or origin.lower() in self.origins)


NO_NAME = PublicName()
"""Loopback and the ssh tunnel alone."""


def public_name(
    *,
    public_url: str = "",
    hosts: Sequence[str] = (),
    root_path: str = "",
    origins: Sequence[str] = (),
    proxies: Sequence[str] = (),
) -> PublicName:
    """Return the name that the options of `serve` give, as they were typed.

    Raises:
        UsageError: a value is not what its option takes, or two contradict each other.

    >>> public_name(public_url="https://LLaVA.corp:443/vlm/", hosts=["::1"]).url
    'https://llava.corp/vlm'
    """
    path = read_root_path(root_path, "--root-path") if root_path else ""
    names = [read_host(host, "--allowed-host") for host in hosts]
    listed = frozenset(read_origin(origin) for origin in origins)
    if ANY_ORIGIN in listed and len(listed) > 1:
        raise UsageError(
            "* is every origin already; expected it alone, or origins without it",
            subject="--allow-origin",
        )
    url = ""
    if public_url:
        parts = _url(public_url)
        below = read_root_path(parts.path, "--public-url") if parts.path.strip("/") else ""
        if path and path != below:
            raise UsageError(
                f"they contradict each other: {below or '/'} and {path}",
                subject="--public-url and --root-path",
                hint="leave out --root-path: --public-url implies it",
            )
        path, url = below, f"{_origin(parts.scheme, parts.netloc, '--public-url')}{below}"
        names.append(read_host(_host_of(parts.netloc), "--public-url"))
    return PublicName(
        url=url,
        hosts=frozenset(names),
        root_path=path,
        origins=listed,
        proxies=tuple(read_proxy(proxy) for proxy in proxies),
    )


def host_name(host: str) -> str:
    """Return the name in a Host header, as it is compared; empty where it is none with a port.

    >>> host_name("LLaVA.corp:443"), host_name("[::1]:80"), host_name("a:b:1"), host_name("a:x")
    ('llava.corp', '[::1]', '', '')
    """
    name = _host_of(host)
    port = host[len(name) + 1 :]
    fits = (":" not in name or name.startswith("[")) and (not port or _is_port(port))
    return name.lower() if fits else ""


def read_host(text: str, subject: str) -> str:
    """Return a host name or an address as a Host header has it, without a port.

    Raises:
        UsageError: it is neither.

    >>> read_host("GPU01.corp.", "x"), read_host("2001:DB8::1", "x"), read_host("10.0.0.5", "x")
    ('gpu01.corp', '[2001:db8::1]', '10.0.0.5')
    """
    try:
        address = ipaddress.ip_address(re.sub(r"^\[(.*)\]$", r"\1", text))
    except ValueError:
        pass
    else:
        return f"[{address}]" if address.version == 6 else str(address)
    try:
        name = text.lower().removesuffix(".").encode("idna").decode("ascii")
    except UnicodeError:
        name = ""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"expected a host name or an address without a port, got {visible(text)!r}",
            subject=subject,
            hint="for example --allowed-host host.docker.internal, once for each name",
        )
    return name


def read_root_path(text: str, subject: str) -> str:
    """Return a path before ours, without a slash at its end.

    One that begins as a route of ours is refused: whether a proxy has taken it away already could
    not be told from the path that is left.

    Raises:
        UsageError: it is no plain path, or not apart from our routes.

    >>> read_root_path("/user/ann/proxy/7860/", "x")
    '/user/ann/proxy/7860'
    """
    path = text.rstrip("/")
    if len(path) > MAX_PATH_CHARS or not _PATH.fullmatch(path):
        raise UsageError(
            f"expected a path of plain segments, such as /vlm, got {visible(text)!r}",
            subject=subject,
        )
    if path.split("/")[1] in FIRST_SEGMENTS:
        raise UsageError(
            f"{path} begins like a route of the server itself",
            subject=subject,
            hint="choose another first segment, for example /vlm",
        )
    return path


def read_origin(text: str) -> str:
    """Return an origin as a browser sends it, or `*`.

    Raises:
        UsageError: it is no origin, or the one that nobody can be told apart by.

    >>> read_origin("HTTPS://chat.corp:443/"), read_origin("app://obsidian.md")
    ('https://chat.corp', 'app://obsidian.md')
    """
    found = _ORIGIN.fullmatch(text.lower().removesuffix("/"))
    if text == ANY_ORIGIN:
        return text
    if found is None:
        raise UsageError(
            f"expected an origin: scheme, host and port, got {visible(text)!r}",
            subject="--allow-origin",
            hint="for example --allow-origin https://chat.corp; null, which pages without an "
            "origin send, is only in *",
        )
    return _origin(found[1], found[2], "--allow-origin")


def read_proxy(text: str) -> str:
    """Return the network that a proxy's address is in, or `unix`.

    Raises:
        UsageError: it is no network, or one that everybody is in.

    >>> read_proxy("10.0.0.7"), read_proxy("fd00::/8"), read_proxy("unix")
    ('10.0.0.7/32', 'fd00::/8', 'unix')
    """
    if text == UNIX:
        return text
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise UsageError(
            f"expected the address of a proxy or a network, got {visible(text)!r}: {error}",
            subject="--trusted-proxy",
            hint="for example --trusted-proxy 127.0.0.1, or 10.0.0.0/24",
        ) from error
    if not network.prefixlen:
        raise UsageError(
            f"everybody is in {network}, and could claim any address",
            subject="--trusted-proxy",
            hint="pass the addresses of your proxies",
        )
    return str(network)


def _url(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        plain = parts.port is None or parts.port > 0
    except ValueError:
        parts, plain = urlsplit(""), False
    if not plain or parts.scheme not in _DEFAULT_PORTS or not _ORIGIN.match(text.lower()):
        parts = urlsplit("")
    if not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
        raise UsageError(
            f"expected http(s)://NAME or http(s)://NAME/PATH, got {visible(text)!r}",
            subject="--public-url",
            hint="for example --public-url https://llava.corp/vlm",
        )
    return parts


def _origin(scheme: str, netloc: str, subject: str) -> str:
    """Return an origin in the spelling of browsers, which leave out a scheme's own port."""
    if scheme not in _DEFAULT_PORTS:  # an extension's or a program's, which has no host like ours
        return f"{scheme}://{netloc}"
    host = _host_of(netloc)
    port = netloc[len(host) + 1 :]
    if port and not _is_port(port):
        raise UsageError(f"expected a port, got {visible(port)!r}", subject=subject)
    other = f":{int(port)}" if port and int(port) != _DEFAULT_PORTS[scheme] else ""
    return f"{scheme}://{read_host(host, subject)}{other}"


def _host_of(netloc: str) -> str:
    """Return what stands before the port.

    >>> _host_of("[::1]:80"), _host_of("a"), _host_of("a:1")
    ('[::1]', 'a', 'a')
    """
    return netloc.rpartition(":")[0] if ":" in netloc.rpartition("]")[2] else netloc


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit()
