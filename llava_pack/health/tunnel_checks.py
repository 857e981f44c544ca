"""From the laptop: which hop to a server fails, and what answers at the other end."""

from collections.abc import Callable, Iterator

from llava_pack.client.ssh import Login, connected
from llava_pack.client.ssh_tunnel import Passage, Remote, ask_server, free_port, opened
from llava_pack.format.errors import PackError
from llava_pack.health.checks import check_engine, check_page
from llava_pack.health.report import Finding, Layer
from llava_pack.health.server import Address, ServerProbe


def check_tunnel(login: Login, say: Callable[[str], None]) -> Iterator[Finding]:
    """Open a tunnel with the person's own ssh and yield what is found through it.

    Args:
        login: how to get to the server.
        say: told what ssh prints before the login is done.
    """
    try:
        with connected(login, say) as host:
            remote = ask_server(host)
            with opened(host, remote, free_port(remote.port, exactly=False)) as passage:
                passage.check(remote, None)
                text = f"{login.destination}: the tunnel is open, and the right server responds"
                yield Layer.TUNNEL.ok(text)
                yield from _through(passage, remote)
    except PackError as error:
        yield Layer.TUNNEL.fail(
            str(error), why="the browser on this laptop cannot reach the page", fix=error.hint
        )


def _through(passage: Passage, remote: Remote) -> Iterator[Finding]:
    address = Address(
        url=f"http://127.0.0.1:{passage.port}", socket=None, token=remote.token, pid=0
    )
    with ServerProbe(address) as probe:
        facts = probe.facts()
        yield from check_engine(facts, "llava-pack")
        if facts.has_page:
            yield check_page(probe.page(), "llava-pack")
