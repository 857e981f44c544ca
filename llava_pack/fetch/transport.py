"""HTTP as the downloader needs it: one client, redirects by hand, failures in our words."""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import Lock
from typing import Any, Self
from urllib.parse import urlsplit
from weakref import WeakSet

import httpx

from llava_pack.fetch.patience import Interrupted, asked_pause_s, may_pass
from llava_pack.fetch.remote import RemoteFile, origin, place
from llava_pack.format.errors import AccessError, FetchError, NetworkError, PackError, reason_of
from llava_pack.network.client import open_client
from llava_pack.network.front import read_front
from llava_pack.network.obstacles import (
    PAGE_AT_MOST_BYTES,
    Reply,
    obstacle,
    proxy_failure,
    untrusted,
)
from llava_pack.network.proxies import Proxy

_CONNECTED = frozenset({"connection.connect_tcp.complete", "connection.start_tls.complete"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REDIRECTS_AT_MOST = 10
_UNREACHABLE_HINT = (
    "check the network, set HTTPS_PROXY, or point HF_ENDPOINT (models) or your package index "
    "at a mirror (in China: --mirror cn); what was fetched so far is kept"
)

_ELSEWHERE_HINT = (
    "let this machine reach that host too (set HTTPS_PROXY), or use a mirror that has the file "
    "itself; a model may also come from a folder or from ModelScope: --model DIR, --model ms:…"
)


class Transport:
    """One HTTP client for many threads, whose transfers can be broken off from another thread.

    Proxies and certificates are those of the environment, and of `network` beside it.

    Args:
        connections: transfers at once.
        connect_s: limit for reaching a host.
        read_s: limit for silence.
        network: variables of certificates and proxies that the environment does not have.

    Raises:
        UsageError: a variable of proxies or certificates cannot be used.
    """

    def __init__(
        self,
        *,
        connections: int,
        connect_s: float,
        read_s: float,
        network: Mapping[str, str] | None = None,
    ) -> None:
        self._front = read_front({**os.environ, **(network or {})})
        self._client: httpx.Client = open_client(
            httpx,
            self._front,
            connections=connections,
            timeout=httpx.Timeout(read_s, connect=connect_s, pool=None),
            headers={"User-Agent": "llava-pack", "Accept-Encoding": "identity"},
        )
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
            AccessError: the server, or a proxy, asks for a token or a permission.
            NetworkError: the host's certificate is not trusted, or something else answers.
            FetchError: the server says no in a way that will not pass.
        """
        with self.open_answer(file, extra) as response:
            self.refuse_obstacle(response, file)
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
            raise _broken(error, file, self._front.proxies.proxy_for(file.url)) from error

    def refuse_obstacle(self, response: httpx.Response, file: RemoteFile) -> None:
        """Raise what answers in place of the host, where something does: see `obstacle`.

        Raises:
            NetworkError: a login page or a filter.
            AccessError: a proxy that wants a password.
        """
        if _is_promised(response, file):
            return
        asked, url = file.url, str(response.url)
        facts = Reply(asked=asked, url=url, status=response.status_code, headers=response.headers)
        proxy = self._front.proxies.proxy_for(url)
        if obstacle(facts, file.name, proxy) is None:
            return
        page = replace(facts, body=_beginning(response))
        if problem := obstacle(page, file.name, proxy):
            raise problem

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


def _refuse_downgrade(file: RemoteFile, url: str) -> None:
    """Refuse to go on without TLS where no digest would vouch for the bytes."""
    if file.digest is None and urlsplit(file.url).scheme == "https" != urlsplit(url).scheme:
        raise FetchError(
            f"refused a redirect from https to {place(url)}: nothing would authenticate the bytes",
            subject=file.name,
            hint="use an address that serves the file over https",
        )


def _is_promised(response: httpx.Response, file: RemoteFile) -> bool:
    """Say whether a file was asked for that may call itself a page."""
    length = response.headers.get("content-length", "")
    whole = file.size_bytes is not None and length == str(file.size_bytes)
    return response.status_code == 200 and (whole or file.name.endswith((".html", ".htm")))


def _beginning(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) >= PAGE_AT_MOST_BYTES:
            break
    return bytes(body)


def _refuse(response: httpx.Response, file: RemoteFile) -> None:
    """Raise what an answer other than bytes means."""
    status, where = response.status_code, place(str(response.url))
    if status in {200, 206, 304, 416}:
        return
    if status in {401, 403}:
        said = response.headers.get("x-error-message", "")
        raise AccessError(
            f"{where} answered {status}" + (f": {said}" if said else ""),
            subject=file.name,
            hint="accept the licence on the model's page and set HF_TOKEN (for ModelScope "
            "MODELSCOPE_API_TOKEN); for a package index, give its credentials",
        )
    failure = FetchError(
        f"{where} answered {status}, expected 200", subject=file.name, hint="run the command again"
    )
    if may_pass(status):
        raise Interrupted(failure, asked_pause_s(response.headers, time.time()))
    raise failure


def _broken(error: httpx.RequestError, file: RemoteFile, proxy: Proxy | None) -> Exception:
    cause = reason_of(error)
    host = asked_host(error, file.url)
    if "CERTIFICATE_VERIFY_FAILED" in cause:
        return untrusted(host, file.name)
    if refused := proxy_failure(cause, file.name, proxy):
        return refused
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
