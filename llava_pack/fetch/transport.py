"""HTTP as the downloader needs it: one client, redirects by hand, failures in our words."""

import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, Self
from urllib.parse import urlsplit
from weakref import WeakSet

import httpx

from llava_pack.fetch.remote import RemoteFile, origin, place
from llava_pack.format.errors import AccessError, FetchError, NetworkError, PackError, reason_of

_CONNECTED = frozenset({"connection.connect_tcp.complete", "connection.start_tls.complete"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REDIRECTS_AT_MOST = 10
_BUSY = frozenset({408, 425, 429})
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
_UNREACHABLE_HINT = (
    "check the network, set HTTPS_PROXY, or point HF_ENDPOINT (models) or your package index "
    "at a mirror (in China: --mirror cn); what was fetched so far is kept"
)

_ELSEWHERE_HINT = (
    "let this machine reach that host too (set HTTPS_PROXY), or use a mirror that has the file "
    "itself; a model may also come from a folder or from ModelScope: --model DIR, --model ms:…"
)


class Interrupted(Exception):  # noqa: N818 - the loop's own signal; `failure` is what people see
    """A transfer broke off in a way that may pass.

    Attributes:
        failure: what to report when it does not pass.
        wait_s: how long the server asked to be left alone.
    """

    def __init__(self, failure: PackError, wait_s: float = 0.0) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.wait_s = wait_s


class Transport:
    """One HTTP client for many threads, whose transfers can be broken off from another thread.

    Proxies and certificate files are those of the environment, and of `network` beside it.

    Args:
        connections: transfers at once.
        connect_s: limit for reaching a host.
        read_s: limit for silence.
        network: SSL_CERT_FILE, HTTP_PROXY and HTTPS_PROXY that the environment does not have.

    Raises:
        NetworkError: the proxy or certificate configuration cannot be used.
    """

    def __init__(
        self,
        *,
        connections: int,
        connect_s: float,
        read_s: float,
        network: Mapping[str, str] | None = None,
    ) -> None:
        self._client = _client(connections, connect_s, read_s, network or {})
        self._wires: WeakSet[Any] = WeakSet()  # every network stream that was opened
        self._guard = Lock()
        self._hung_up = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    @contextmanager
    def open_stream(
        self, file: RemoteFile, extra: Mapping[str, str] | None = None
    ) -> Iterator[httpx.Response]:
        """Yield the answer to a GET of `file`, after redirects, body not yet read.

        The file's own headers (a token, perhaps) are sent to the URL's origin and to no other.

        Raises:
            Interrupted: worth another try.
            AccessError: the server asks for a token or a permission.
            NetworkError: the host's certificate is not trusted.
            FetchError: the server says no in a way that will not pass.
        """
        with self.open_answer(file, extra) as response:
            _refuse(response, file)
            yield response

    @contextmanager
    def open_answer(
        self, file: RemoteFile, extra: Mapping[str, str] | None = None
    ) -> Iterator[httpx.Response]:
        """Yield the answer to a GET of `file` after redirects, whatever its status.

        Raises:
            Interrupted: worth another try.
            NetworkError: the host's certificate is not trusted.
            FetchError: it cannot be followed.
        """
        try:
            response = self._follow(file, extra or {})
            try:
                yield response
            finally:
                response.close()
        except httpx.RequestError as error:  # also where what comes cannot be unpacked
            raise _broken(error, file) from error

    def hang_up(self) -> None:
        """Break off every transfer for good: a thread that waits for a silent server wakes up."""
        with self._guard:
            self._hung_up = True
            for wire in self._wires:
                _break(wire)

    def _watch(self, event: str, info: Mapping[str, Any]) -> None:
        """Take note of new connections. Source: httpcore, docs/extensions.md, "trace"."""
        if event in _CONNECTED:
            wire = info["return_value"]
            with self._guard:
                self._wires.add(wire)
                if self._hung_up:
                    _break(wire)

    def _follow(self, file: RemoteFile, extra: Mapping[str, str]) -> httpx.Response:
        url = file.url
        try:
            for _ in range(_REDIRECTS_AT_MOST):
                trusted = file.headers if origin(url) == origin(file.url) else {}
                request = self._client.build_request(
                    "GET", url, headers={**trusted, **extra}, extensions={"trace": self._watch}
                )
                response = self._client.send(request, stream=True, follow_redirects=False)
                if response.status_code not in _REDIRECTS or "location" not in response.headers:
                    return response
                response.close()
                url = str(response.url.join(response.headers["location"]))
                _refuse_downgrade(file, url)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
            raise FetchError(
                f"not a URL that can be fetched: {error}",
                subject=file.name,
                hint="expected http, https or file",
            ) from error
        raise FetchError(
            f"more than {_REDIRECTS_AT_MOST} redirects",
            subject=file.name,
            hint=f"check {place(file.url)} in a browser",
        )


def _break(wire: Any) -> None:
    with suppress(OSError):  # it ended by itself
        wire.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def _client(
    connections: int, connect_s: float, read_s: float, network: Mapping[str, str]
) -> httpx.Client:
    try:
        certificates = _certificates(os.environ, network)
        proxies = {
            f"{scheme}://": httpx.HTTPTransport(proxy=proxy, verify=certificates)
            for scheme in ("http", "https")
            if (proxy := network.get(f"{scheme}_proxy".upper()))
        }
        return httpx.Client(
            verify=certificates,
            mounts=proxies,
            timeout=httpx.Timeout(read_s, connect=connect_s, pool=None),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            headers={"User-Agent": "llava-pack", "Accept-Encoding": "identity"},
        )
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as error:
        raise NetworkError(
            f"the proxy or certificate configuration cannot be used: {error}",
            hint="check HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and REQUESTS_CA_BUNDLE",
        ) from error


def _refuse_downgrade(file: RemoteFile, url: str) -> None:
    """Refuse to go on without TLS where no digest would vouch for the bytes."""
    if file.digest is None and urlsplit(file.url).scheme == "https" != urlsplit(url).scheme:
        raise FetchError(
            f"refused a redirect from https to {place(url)}: nothing would authenticate the bytes",
            subject=file.name,
            hint="use an address that serves the file over https",
        )


def _refuse(response: httpx.Response, file: RemoteFile) -> None:
    """Raise what an answer other than bytes means."""
    status, where = response.status_code, place(str(response.url))
    if status in {200, 206, 304, 416}:
        return
    if status in {401, 403, 407}:
        said = response.headers.get("x-error-message", "")
        raise AccessError(
            f"{where} answered {status}" + (f": {said}" if said else ""),
            subject=file.name,
            hint="accept the licence on the model's page and set HF_TOKEN (for ModelScope "
            "MODELSCOPE_API_TOKEN); for a package index or a proxy, give its credentials",
        )
    failure = FetchError(
        f"{where} answered {status}, expected 200", subject=file.name, hint="run the command again"
    )
    if status >= 500 or status in _BUSY:
        raise Interrupted(failure, _seconds(response.headers.get("retry-after", "")))
    raise failure


def _seconds(text: str) -> float:
    return float(text) if text.isdecimal() else 0.0


def _broken(error: httpx.RequestError, file: RemoteFile) -> Exception:
    cause = reason_of(error)
    host = asked_host(error, file.url)
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        return NetworkError(
            f"the certificate of {host} is not trusted",
            subject=file.name,
            hint="set SSL_CERT_FILE to your organisation's CA bundle",
        )
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        failure: PackError = unreachable(error, file.url, file.name, hint=_UNREACHABLE_HINT)
    else:
        failure = FetchError(
            f"the transfer from {host} was interrupted: {cause}",
            subject=file.name,
            hint="run the command again: it resumes where it stopped",
        )
    return Interrupted(failure)


def asked_host(error: Exception, url: str) -> str:
    """Return the origin that a failed request went to: after a redirect, another than `url`'s."""
    try:
        return origin(str(error.request.url))  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):  # httpx: a request that was never made
        return origin(url)


def unreachable(error: Exception, url: str, subject: str, *, hint: str) -> NetworkError:
    """Return what to report where nothing answers: the host that does not, and who named it.

    Args:
        error: of httpx.
        url: what was asked for in the first place.
        subject: what it was asked for.
        hint: for a host that the person chose.
    """
    cause, first, host = reason_of(error), origin(url), asked_host(error, url)
    if host == first:
        return NetworkError(f"{host} cannot be reached: {cause}", subject=subject, hint=hint)
    return NetworkError(
        f"{first} redirects to {host}, and {host} cannot be reached: {cause}",
        subject=subject,
        hint=f"{_ELSEWHERE_HINT}; what was fetched so far is kept",
    )


def _certificates(environ: Mapping[str, str], network: Mapping[str, str]) -> ssl.SSLContext | bool:
    """Return the CA bundle that pip and requests are told of; SSL_CERT_FILE is httpx's own."""
    if environ.get("SSL_CERT_FILE") or environ.get("SSL_CERT_DIR"):
        return True
    told = [network.get("SSL_CERT_FILE"), *(environ.get(name) for name in _CA_VARIABLES)]
    if bundle := next((one for one in told if one), None):
        return ssl.create_default_context(cafile=bundle)
    return True
