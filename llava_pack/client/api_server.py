"""A server whose API is used: on this machine, through an ssh tunnel, or at a URL."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llava_pack.client.discovery import connection
from llava_pack.format.errors import AccessError, NetworkError, ServeError, UsageError, reason_of

if TYPE_CHECKING:
    import httpx

    from llava_pack.client.ssh import Login

_KEY_BYTES = 4096
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class ApiServer:
    """Where a server is, what lets in, and which of its models answers."""

    url: str
    token: str
    model: str
    socket: str | None = None
    elsewhere: bool = False
    """On another machine: pictures are sent as they are, and it decodes them."""
    proxied: bool = False
    """Whether the proxies and certificates of the environment apply."""
    diagnosis: str = "llava-pack health"
    """The command that finds out why it cannot be reached."""

    def client(self) -> "httpx.Client":
        """Return a client that the server lets in."""
        return connection(self.url, token=self.token, socket=self.socket, trust_env=self.proxied)

    def unreachable(self, error: Exception) -> ServeError:
        """Return the error for a connection that failed."""
        message = f"the server cannot be reached: {reason_of(error)}"
        return ServeError(message, subject=self.url, hint=self.diagnosis)


@contextmanager
def through_tunnel(
    login: "Login", model: str | None, say: Callable[[str], None]
) -> Iterator[ApiServer]:
    """Keep an ssh tunnel open during the block, to the server that runs over there.

    Args:
        login: how to get there.
        model: one of its models; None takes the first.
        say: told what ssh prints before the login is done.

    Raises:
        NetworkError: the tunnel cannot be opened; the message names the hop.
        ServeError: no server is running there, or it does not have that model.
    """
    from llava_pack.client.ssh import connected
    from llava_pack.client.ssh_tunnel import ask_server, free_port, opened

    with ExitStack() as stack:
        host = stack.enter_context(connected(login, say))
        remote = ask_server(host)
        here = free_port(remote.port, exactly=False)
        passage = stack.enter_context(opened(host, remote, here))
        models = tuple(passage.check(remote, None)["models"])
        yield ApiServer(
            url=f"http://127.0.0.1:{passage.port}",
            token=remote.token,
            model=_chosen(model, models, login.destination),
            elsewhere=True,
            diagnosis=f"llava-pack health --tunnel {login.destination}",
        )


def at_url(url: str, key_file: Path | None, model: str | None) -> ApiServer:
    """Return the server at a URL, which says itself which models it has.

    Args:
        url: its root, with or without `/v1`.
        key_file: has the API key; None where none is required.
        model: one of its models; None takes the first.

    Raises:
        UsageError: the URL or the key's file is not usable.
        AccessError: the key is rejected.
        NetworkError: it cannot be reached.
        ServeError: no such API responds there, or it does not have that model.
    """
    import httpx

    root, loopback = _root(url)
    token = _key(key_file) if key_file else ""
    try:
        with connection(root, token=token, trust_env=not loopback) as client:
            answer = client.get("/v1/models")
    except httpx.HTTPError as error:
        raise NetworkError(
            f"the server cannot be reached: {reason_of(error)}",
            subject=root,
            hint="check the address, or go through ssh: --via USER@HOST",
        ) from error
    except httpx.InvalidURL as error:
        raise UsageError(f"the address is not valid: {error}", subject="--url") from error
    except (ImportError, ValueError) as error:  # as httpx says of a proxy that it cannot use
        raise UsageError(
            f"the proxy of this environment cannot be used: {error}",
            subject="ALL_PROXY, HTTPS_PROXY or HTTP_PROXY",
            hint="set it to an address as http://proxy.corp:3128, or add the server to NO_PROXY",
        ) from error
    return ApiServer(
        url=root,
        token=token,
        model=_chosen(model, _models(answer, root), root),
        elsewhere=True,
        proxied=not loopback,
        diagnosis=f"check that {root}/v1/models responds",
    )


def exposed(url: str, key_file: Path | None) -> bool:
    """Return whether a key would travel unencrypted to another machine.

    >>> exposed("http://gpu01:7860", Path("k")), exposed("https://gpu01", Path("k"))
    (True, False)
    """
    parts = urlsplit(url)
    return key_file is not None and parts.scheme == "http" and parts.hostname not in _LOOPBACK


def _root(url: str) -> tuple[str, bool]:
    """Return a server's root without `/v1`, and whether it is on this machine.

    Raises:
        UsageError: it is no such URL.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise UsageError(
            f"expected an address as https://llava.corp or http://localhost:7860, got {url!r}",
            subject="--url",
        )
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError(
            "the address must not contain a password, a key or a token",
            subject="--url",
            hint="write the key into a file and pass it with --key-file FILE",
        )
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}", host in _LOOPBACK


def _key(file: Path) -> str:
    """Return the key in a file.

    Raises:
        UsageError: it cannot be read, or is not one key.
    """
    try:
        with file.expanduser().open("rb") as stream:
            text = stream.read(_KEY_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        message = f"the key file cannot be read: {reason_of(error)}"
        raise UsageError(message, subject=str(file)) from error
    if not text or not text.isprintable() or " " in text:
        raise UsageError("expected one API key on one line", subject=str(file))
    return text


def _models(answer: "httpx.Response", root: str) -> tuple[str, ...]:
    """Return the models that a server lists.

    Raises:
        AccessError: it does not let us in.
        ServeError: it is no server with such an API.
    """
    if answer.status_code in (401, 403):
        raise AccessError(
            f"the server requires a valid API key (HTTP {answer.status_code})",
            subject=root,
            hint="pass --key-file FILE; on the server: llava-pack keys add NAME",
        )
    if answer.has_redirect_location:
        raise ServeError(
            f"the server redirects to {answer.headers['location']}",
            subject=root,
            hint="pass that address with --url, if you trust it",
        )
    try:
        return tuple(str(one["id"]) for one in json.loads(answer.text)["data"])
    except (ValueError, KeyError, TypeError):
        raise ServeError(
            f"expected an OpenAI-compatible API, got HTTP {answer.status_code} for /v1/models",
            subject=root,
            hint="pass the address that `llava-pack serve` printed, without /v1/...",
        ) from None


def _chosen(model: str | None, models: tuple[str, ...], where: str) -> str:
    """Return the model that is meant: by name, else the first.

    Raises:
        ServeError: there is no such model.
    """
    if model is None and models:
        return models[0]
    if model is not None and model in models:
        return model
    names = ", ".join(models) or "none"
    raise ServeError(
        f"expected the model {model!r}, running: {names}" if model else "no model is running",
        subject=where,
        hint="leave out --model, or pass one of these" if models else "llava-pack status",
    )
