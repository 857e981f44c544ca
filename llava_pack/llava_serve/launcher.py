"""One program of `llava.serve`, run as published, in the bundle's environment of its own.

    python -I -m llava_pack.llava_serve.launcher controller|worker|page OPTIONS…

LLaVA's code is not changed on disk. A fence is raised before anything of it is imported, and what
it calls is bounded before it runs:

- every request has to carry the token of the start, and the page asks for it;
- nothing is sent to another host, whatever proxies and settings say;
- the page is never shared, and asks the browser for no font, script or picture of another host;
- the example pictures, which the published wheel lacks, are left out.
"""

import hmac
import importlib
import os
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from llava_pack.engine.parent import die_with_parent
from llava_pack.format.errors import PackError
from llava_pack.llava_serve.bounds import FENCE_VARIABLE, HINT, Bounds
from llava_pack.llava_serve.fencing import enter_upstream_fence
from llava_pack.llava_serve.programs import TOKEN_VARIABLE, USER

_MODULES = {
    "controller": "llava.serve.controller",
    "worker": "llava.serve.model_worker",
    "page": "llava.serve.gradio_web_server",
}
_HERE = ("", "localhost", "::1", "0.0.0.0", "::")  # noqa: S104 - names of this machine, not bound
_LOOK_UPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_SENDS = ("socket.connect", "socket.sendto", "socket.sendmsg")
_FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]
_MONO = ["ui-monospace", "monospace"]
# Whole elements of gradio 4.16's index.html that a browser would fetch from elsewhere.
_FOREIGN = re.compile(
    r"<script[^>]*\ssrc=\"https?://[^>]*>\s*</script>|<link[^>]*\shref=\"https?://[^>]*>"
)

Asgi = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


def main(argv: list[str]) -> None:
    """Bound what the program may do, and run it until it is told to end."""
    role, options = argv[0], argv[1:]
    token = os.environ.pop(TOKEN_VARIABLE, "")
    die_with_parent()  # the serve of an earlier version sees to nothing
    _enter_fence(Bounds.parse(os.environ.pop(FENCE_VARIABLE)))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _bound_sockets()
    _bound_requests(token)
    if role == "page":
        _bound_page(token)
    else:
        _bound_server(token)
    sys.argv = [_MODULES[role], *options]
    # LLaVA's heartbeat is a thread that never ends: the process has to be ended over it.
    os._exit(_ran(_MODULES[role]))


def _enter_fence(bounds: Bounds) -> None:
    """Raise the fence around this program, or end with what is to be done about it."""
    try:
        enter_upstream_fence(bounds, Path.cwd())
    except PackError as error:
        sys.stderr.write(f"{error}\n{HINT}{error.hint}\n")
        raise SystemExit(int(error.exit_code)) from error


def _ran(module: str) -> int:
    """Run a program to its end and return its exit code."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - the boundary of the program
        traceback.print_exc()
        return 1
    return 0


def guarded(app: Asgi, token: str) -> Asgi:
    """Return the application, answering 401 to whoever does not know the token."""
    wanted = f"Bearer {token}".encode()

    async def answer(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] == "lifespan" or not token or hmac.compare_digest(given, wanted):
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"a token is needed\n"})

    return answer


def without_foreign(page: str) -> str:
    """Return a page without the elements that a browser would fetch from other hosts.

    >>> without_foreign('<b>a</b><link rel="preconnect" href="https://fonts.example" /><i>b</i>')
    '<b>a</b><i>b</i>'
    """
    return _FOREIGN.sub("", page)


def reaches_out(event: str, arguments: tuple[Any, ...]) -> str | None:
    """Return the host that an audit event of Python's reaches for, None where it is this one.

    Source: Python, "Audit events table".

    >>> reaches_out("socket.getaddrinfo", ("huggingface.co", 443, 0, 0, 0))
    'huggingface.co'
    """
    if event in _LOOK_UPS:
        host = arguments[0]
    elif event in _SENDS and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return None
    name = os.fsdecode(host) if isinstance(host, bytes) else str(host or "")
    return None if name in _HERE or name.startswith("127.") else name


def _bound_sockets() -> None:
    """Have every reach for another host fail before anything is sent."""

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if host := reaches_out(event, arguments):
            raise ConnectionRefusedError(f"{host}: connections to other machines are blocked")

    sys.addaudithook(hear)


def _bound_requests(token: str) -> None:
    """Have `requests` send the token, and look at no proxy setting."""
    requests: Any = importlib.import_module("requests")  # its types come and go with other tools
    whole = requests.Session.request

    def request(session: Any, method: str, url: str, **given: Any) -> Any:
        session.trust_env = False
        headers: Mapping[str, str] = given.pop("headers", None) or {}
        mine = {"Authorization": f"Bearer {token}"} if token else {}
        return whole(session, method, url, headers={**headers, **mine}, **given)

    requests.Session.request = request


def _bound_server(token: str) -> None:
    """Have `uvicorn.run` serve the guarded application, without a line a request."""
    import uvicorn

    run = uvicorn.run

    def guarded_run(app: Any, **given: Any) -> None:
        run(guarded(app, token), **{**given, "access_log": False})

    uvicorn.run = guarded_run


def _bound_page(token: str) -> None:
    """Have gradio ask for the token, share nothing, and serve everything by itself."""
    import gradio
    from gradio import routes
    from jinja2 import FunctionLoader

    theme, launch, loader = gradio.themes.Default, gradio.Blocks.launch, routes.templates.env.loader

    def local_theme() -> Any:
        return theme(font=_FONTS, font_mono=_MONO)

    def local_launch(blocks: Any, **given: Any) -> Any:
        asked = {"auth": (USER, token)} if token else {}
        return launch(blocks, **{**given, "share": False, "show_api": False, **asked})

    def local_page(name: str) -> str:
        return without_foreign(loader.get_source(routes.templates.env, name)[0])

    gradio.themes.Default = local_theme
    gradio.Blocks.launch = local_launch
    gradio.Examples = lambda **_: None
    routes.templates.env.loader = FunctionLoader(local_page)


if __name__ == "__main__":
    main(sys.argv[1:])
