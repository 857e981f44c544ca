"""The servers that run on this machine, as the commands that look after them see them."""

import os
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llava_pack.format.errors import ServeError
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.origin import start_command
from llava_pack.serve.run_state import RunState, running, serving
from llava_pack.serve.tunnel_lines import Endpoint, endpoint
from llava_pack.serve.way_in import way_in

if TYPE_CHECKING:
    import httpx

_IN_CONTAINER = ("/.dockerenv", "/run/.containerenv")
"""Files of Docker and Podman: a container's host name means nothing outside."""
QUICK_S = 10.0
"""How long a server on this machine may take to accept a connection or answer a probe."""


def chosen_server(model: str | None = None, *, nodes: bool = False) -> RunState:
    """Return the server with a model, or the one that was started last.

    Args:
        model: its name in the API; None for any.
        nodes: whether a node of another machine's server will do, which answers nobody.

    Raises:
        ServeError: there is none.
    """
    servers = running() if nodes else serving()
    for server in servers:
        if model is None or model in server.models:
            return server
    names = ", ".join(sorted({name for server in servers for name in server.models})) or "none"
    which = f"no server with the model {model!r}" if model else "no server"
    heads = [str(state.follower["head"]) for state in running() if state.follower]
    raise ServeError(
        f"{which} is running on this machine; models served: {names}",
        hint=f"this machine is a node of {heads[0]}: ask there" if heads else start_command(),
    )


def http(server: RunState) -> "httpx.Client":
    """Return a client that a server lets in."""
    return connection(server.url, token=server.token, socket=server.socket)


def connection(
    url: str,
    *,
    token: str,
    socket: str | None = None,
    timeout_s: float = QUICK_S,
    trust_env: bool = False,
) -> "httpx.Client":
    """Return a client of a server; for one on this machine, proxies have no business there.

    Args:
        url: its root.
        token: lets in; empty where none is asked for.
        socket: where it listens, None for the port in `url`.
        timeout_s: of each connect, read and write.
        trust_env: whether the environment's proxies and certificates apply.
    """
    import httpx

    return httpx.Client(
        base_url=url,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        transport=httpx.HTTPTransport(uds=socket) if socket else None,
        trust_env=trust_env,
        timeout=timeout_s,
    )


def ordered(server: RunState, say: Callable[[str], None], **wanted: Any) -> dict[str, Any]:
    """Have a server do something, and say how far it is meanwhile.

    Raises:
        PackError: it was not done, with the server's own error.
    """
    from llava_pack.serve.supervision.control import order

    runtime = RUNTIMES[server.engine]
    if not runtime.gateway:
        raise ServeError(
            f"the server runs {runtime.title}, which cannot be controlled",
            subject=", ".join(server.models),
            hint=f"stop it with kill {server.pid}; then restart it with `llava-pack serve`",
        )
    return order(server.control, wanted, say)


def this_endpoint(state: RunState, reached_as: str = "") -> Endpoint:
    """Return how a laptop reaches a server: as it told, else as this process's ssh session says.

    Args:
        state: of the server.
        reached_as: what the laptop tells now; it told when the server was started, else.

    Raises:
        UsageError: that is no destination of ssh.
    """
    told = reached_as or state.reached_as
    return endpoint(
        ssh_connection=os.environ.get("SSH_CONNECTION"),
        user=_account_name(),
        hostname="" if any(map(os.path.exists, _IN_CONTAINER)) else platform.node(),
        reached=way_in(told) if told else None,
        host=state.host,
        port=state.port,
        socket=state.socket,
    )


def _account_name() -> str:
    """Return the name of this account; empty for a number without one, as containers have."""
    import pwd  # only servers have it

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""
