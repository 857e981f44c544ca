"""A visit to an address, host by host after redirects: name, proxy, certificate, rate."""

import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from socket import gaierror, getaddrinfo
from typing import Any
from urllib.parse import urlsplit

from llava_pack.format.errors import NetworkError, PackError, reason_of
from llava_pack.network.certificate import issuer_of
from llava_pack.network.client import Routes
from llava_pack.network.front import NetworkFront
from llava_pack.network.obstacles import (
    FILTER_HINT,
    Reply,
    obstacle,
    proxy_failure,
    untrusted,
)

_WITHIN_S = 10.0
_HOSTS_AT_MOST = 6
_READ_AT_MOST_BYTES = 4 << 20
_READ_WITHIN_S = 2.0
_NAME_HINT = (
    "check the network and its DNS; behind a proxy that resolves names itself, set HTTPS_PROXY"
)
_REACH_HINT = "set HTTPS_PROXY, allow that host, or use a mirror (in China: --mirror cn)"


@dataclass(frozen=True, kw_only=True)
class HostVisit:
    """What one host was like.

    Attributes:
        url: what it was asked for.
        proxy: through which one, without its password; empty for none.
        issuer: who signed its certificate; empty without TLS.
        private: no public authority vouches for it: it is an organisation's own host, or somebody
            who inspects traffic stands in between.
        status: of HTTP; 0 where nothing answered.
        bytes_per_s: how fast it sent the last of what was read, None for too little.
        problem: why a build could not use it.
    """

    url: str
    proxy: str = ""
    issuer: str = ""
    private: bool = False
    status: int = 0
    bytes_per_s: float | None = None
    problem: PackError | None = None

    @property
    def host(self) -> str:
        """Return the host's name."""
        return urlsplit(self.url).hostname or ""


@dataclass(frozen=True, kw_only=True)
class _Look:
    """One answer, and what was seen beside it."""

    reply: Reply
    location: str
    certificate: bytes
    bytes_per_s: float | None = field(default=None)


def visit(
    url: str, front: NetworkFront, headers: Mapping[str, str], *, page: bool = False
) -> tuple[tuple[HostVisit, ...], Reply | None]:
    """Return every host that answers on the way to an address, and the last answer.

    Args:
        url: of http or https.
        front: how to reach it.
        headers: for the first host alone.
        page: an answer that is a web page is what was asked for.
    """
    visits: list[HostVisit] = []
    reply, own = None, dict(headers)
    while len(visits) < _HOSTS_AT_MOST:
        one, look = _visit_host(url, front, own, page=page)
        visits.append(one)
        reply = None if look is None else look.reply
        if one.problem is not None or look is None or not look.location:
            break
        if urlsplit(look.location).netloc != urlsplit(url).netloc:
            own = {name: own[name] for name in ("Range", "Accept") if name in own}
        url = look.location
    return tuple(visits), reply


def _visit_host(
    url: str, front: NetworkFront, headers: Mapping[str, str], *, page: bool
) -> tuple[HostVisit, _Look | None]:
    import httpx

    proxy = front.proxies.proxy_for(url)
    host, through = urlsplit(url).hostname or "", "" if proxy is None else proxy.address
    try:
        if proxy is None:
            getaddrinfo(host, None)
        look = _look(url, front, headers, front.trust.context())
    except gaierror as error:
        failure: PackError = NetworkError(
            f"{host} has no address here: {reason_of(error)}", hint=_NAME_HINT
        )
        return HostVisit(url=url, proxy=through, problem=failure), None
    except httpx.HTTPError as error:
        said, issuer = reason_of(error), ""
        if "CERTIFICATE_VERIFY_FAILED" in said:
            issuer = _stranger(url, front)
            failure = untrusted(host, "", issuer)
        else:
            hint = _REACH_HINT if proxy is None else FILTER_HINT
            unreached = NetworkError(f"{host} cannot be reached: {said}", hint=hint)
            failure = proxy_failure(said, host, proxy) or unreached
        return HostVisit(url=url, proxy=through, issuer=issuer, problem=failure), None
    problem = None if page and look.reply.status == 200 else obstacle(look.reply, host, proxy)
    issuer = issuer_of(look.certificate)
    seen = HostVisit(
        url=url,
        proxy=through,
        issuer=issuer,
        private=bool(look.certificate) and not _is_public(url, front),
        status=look.reply.status,
        bytes_per_s=look.bytes_per_s,
        problem=problem,
    )
    return seen, look


def _look(
    url: str, front: NetworkFront, headers: Mapping[str, str], context: ssl.SSLContext
) -> _Look:
    import httpx

    routes: Any = Routes(httpx, front, 1, context)
    with (
        httpx.Client(transport=routes, timeout=_WITHIN_S) as client,
        client.stream("GET", url, headers=dict(headers)) as response,
    ):
        wire = response.extensions["network_stream"].get_extra_info("ssl_object")
        certificate = b"" if wire is None else wire.getpeercert(True) or b""
        moved = response.has_redirect_location
        body, rate = (b"", None) if moved else _read(response.iter_raw())
        return _Look(
            reply=Reply(
                asked=url,
                url=url,
                status=response.status_code,
                headers=response.headers,
                body=body,
            ),
            location=str(response.url.join(response.headers["location"])) if moved else "",
            certificate=certificate,
            bytes_per_s=rate,
        )


def _read(chunks: Iterator[bytes]) -> tuple[bytes, float | None]:
    """Return what came within a short time, and how many bytes a second came after the first."""
    body, begun, first = bytearray(), 0.0, 0
    for chunk in chunks:
        body += chunk
        now = time.monotonic()
        if not begun:
            begun, first = now, len(body)
        if len(body) >= _READ_AT_MOST_BYTES or now - begun > _READ_WITHIN_S:
            break
    elapsed = time.monotonic() - begun
    rest = len(body) - first
    return bytes(body), rest / elapsed if rest and elapsed > 0 else None


def _is_public(url: str, front: NetworkFront) -> bool:
    """Say whether one of the public authorities vouches for a host."""
    import certifi
    import httpx

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=certifi.where())
    try:
        _look(url, front, {"Range": "bytes=0-0"}, context)
    except httpx.HTTPError as error:
        return "CERTIFICATE_VERIFY_FAILED" not in str(error)
    return True


def _stranger(url: str, front: NetworkFront) -> str:
    """Return who signed a certificate that is not believed; nothing that comes is used."""
    import httpx

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        return issuer_of(_look(url, front, {"Range": "bytes=0-0"}, context).certificate)
    except httpx.HTTPError:
        return ""
