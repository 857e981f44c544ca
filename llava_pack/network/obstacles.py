"""What stands between the laptop and a host, told by what answers.

A login page, a filter, a proxy that wants a password, an authority that nobody here believes.
Rules only: the one who asked hands over what came.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from urllib.parse import urlsplit

from llava_pack.format.errors import AccessError, NetworkError, PackError
from llava_pack.network.proxies import Proxy

PAGE_AT_MOST_BYTES = 1 << 16
"""As much of a page is looked at: its title and its form come early."""
_TITLE = re.compile(r"<title[^>]*>(.{1,200}?)</title", re.IGNORECASE | re.DOTALL)
_LOGIN = re.compile(r"type\s*=\s*[\"']?password", re.IGNORECASE)
_TITLE_AT_MOST = 60
_LOGIN_REQUIRED = 511
"""Network Authentication Required. Source: RFC 6585, section 6."""
_WANTS_LOGIN = (
    "407 Proxy Authentication",
    "proxy authorization required",
    "Invalid username/password",
    "NO ACCEPTABLE METHODS",
    "user/pass authentication",
    "credentials not accepted",
)
"""What httpcore and uv say of a proxy that refuses a login, or wants one."""
_LOGIN_HINT = (
    "log in to this network: open any page in a browser; or set HTTPS_PROXY if your organisation "
    "has a proxy; then run the command again"
)
FILTER_HINT = (
    "ask who runs the proxy to allow that host and that kind of file, or use a mirror that is "
    "allowed (--mirror); a model may also come from a folder: --model DIR"
)
_ABSENT_HINT = (
    "the address of your organisation's proxy is known to its IT or to your browser; without a "
    "proxy, unset it"
)
_PROXY_HINT = (
    "set the variable to http://USER:PASSWORD@HOST:PORT, with @ as %40 and # as %23 in them; if "
    "the proxy wants your Windows login (NTLM, Negotiate), run a local proxy that has it, such as "
    "px or cntlm, and set the variable to that one"
)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came in answer to a request, after redirects.

    Attributes:
        asked: the address that was asked first.
        url: the address that answered.
        status: of HTTP.
        headers: names in lower case.
        body: the beginning of it.
    """

    asked: str
    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def is_page(self) -> bool:
        """Say whether it calls itself a web page."""
        return self.headers.get("content-type", "").lower().startswith("text/html")

    @property
    def title(self) -> str:
        """Return the page's title in quotes, with a blank before; empty where it has none."""
        match = _TITLE.search(self.body.decode("utf-8", "replace"))
        words = " ".join(unescape(match[1]).split()) if match else ""
        return f" '{words[:_TITLE_AT_MOST]}'" if words else ""

    @property
    def led_away(self) -> bool:
        """Say whether another host answers than the one that was asked."""
        return urlsplit(self.asked).hostname != urlsplit(self.url).hostname

    @property
    def wants_login(self) -> bool:
        """Say whether it is a page to log in to something."""
        return _LOGIN.search(self.body.decode("utf-8", "replace")) is not None


def obstacle(reply: Reply, subject: str, proxy: Proxy | None = None) -> PackError | None:
    """Return what answered in place of a host that was asked for data; None where it was the host.

    Args:
        reply: what came.
        subject: what was asked for.
        proxy: through which it was asked.
    """
    if reply.status == 407:
        return proxy_login(subject, proxy)
    if reply.status == _LOGIN_REQUIRED:
        return _login_page(reply, subject)
    if not reply.is_page:
        return None
    away = reply.led_away and reply.status in {200, 401, 403}
    if away or (reply.status == 200 and reply.wants_login):
        return _login_page(reply, subject)
    if reply.status in {200, 403}:
        host = urlsplit(reply.url).hostname
        return NetworkError(
            f"{host} answered {reply.status} with a web page{reply.title} in place of the data: a "
            "proxy or a filter blocks it",
            subject=subject,
            hint=FILTER_HINT,
        )
    return None


def _login_page(reply: Reply, subject: str) -> NetworkError:
    asked, host = urlsplit(reply.asked).hostname, urlsplit(reply.url).hostname
    return NetworkError(
        f"{asked} was asked, and the web page{reply.title} of {host} came: this network wants a "
        "login first, or a filter blocks it",
        subject=subject,
        hint=_LOGIN_HINT,
    )


def proxy_failure(said: str, subject: str, proxy: Proxy | None) -> PackError | None:
    """Return what to report where an error's text is of the proxy itself; None for any other.

    Args:
        said: what a client says.
        subject: what was asked for.
        proxy: through which it was asked.
    """
    if any(phrase in said for phrase in _WANTS_LOGIN):
        return proxy_login(subject, proxy)
    if proxy is None or not said.startswith(begins := absent_proxy(proxy, "")):
        return None
    hint = f"check {proxy.origin}; {_ABSENT_HINT}"
    return NetworkError(absent_proxy(proxy, said[len(begins) :]), subject=subject, hint=hint)


def absent_proxy(proxy: Proxy, reason: str) -> str:
    """Return what to say of a proxy that is not there."""
    return f"the proxy {proxy.address} of {proxy.origin} cannot be reached: {reason}"


def proxy_login(subject: str, proxy: Proxy | None) -> AccessError:
    """Return what to report where a proxy lets nobody pass without the right password."""
    if proxy is None:
        return AccessError(
            "a proxy wants a user and a password (407)", subject=subject, hint=_PROXY_HINT
        )
    if proxy.user or proxy.password:
        return AccessError(
            f"the proxy {proxy.address} refuses the user and password in {proxy.origin} (407)",
            subject=subject,
            hint=_PROXY_HINT,
        )
    return AccessError(
        f"the proxy {proxy.address} of {proxy.origin} wants a user and a password (407)",
        subject=subject,
        hint=_PROXY_HINT,
    )


def untrusted(host: str, subject: str, issuer: str = "") -> NetworkError:
    """Return what to report of a certificate that nobody here vouches for.

    Args:
        host: whose it is.
        subject: what was asked for.
        issuer: who signed it, where that was looked at.
    """
    if issuer:
        return NetworkError(
            f"the certificate of {host} is signed by '{issuer}', which is not trusted",
            subject=subject,
            hint="if that is your organisation's own authority, ask for its certificate, and set "
            "SSL_CERT_FILE to a file with it and the public ones",
        )
    return NetworkError(
        f"the certificate of {host} is not trusted",
        subject=subject,
        hint="if your organisation inspects traffic, set SSL_CERT_FILE to its CA bundle; "
        "`llava-pack doctor RECIPE` names who signed the certificate",
    )
