"""nginx, Caddy and jupyter-server-proxy, as the page configures them: what holds behind each."""

import base64
import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.clients.conftest import (
    MODEL,
    answers,
    certificate,
    client,
    running,
    serving,
    shown,
)

_PAGE = "proxy.md"
_OTHER = "127.0.0.2"
"""Where the tests ask from, so that it differs from the proxy's own address."""
_NGINX = """
daemon off; user root; pid {0}/nginx.pid; error_log stderr notice;
events {{}}
http {{
    access_log off;
    client_body_temp_path {0}/body; proxy_temp_path {0}/proxy;
    fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;
    include /etc/nginx/conf.d/*.conf;
}}
"""


def _trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


@contextmanager
def _nginx(blocks: list[str], folder: Path) -> Iterator[Path]:
    with certificate(Path("/etc/nginx")) as trusted:
        Path("/etc/nginx/conf.d").mkdir(exist_ok=True)
        Path("/etc/nginx/conf.d/llava.conf").write_text(blocks[1])
        Path("/etc/nginx/nginx.conf").write_text(_NGINX.format(folder))
        with running(["nginx"], os.environ, folder / "proxy.log") as process:
            answers("https://llava.corp/", process, folder / "proxy.log", verify=_trusting(trusted))
            yield trusted


@contextmanager
def _caddy(blocks: list[str], folder: Path) -> Iterator[Path]:
    with certificate(Path("/etc/caddy")) as trusted:
        Path("/etc/caddy/Caddyfile").write_text(blocks[1])
        environ = {**os.environ, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        command = ["caddy", "run", "--config", "/etc/caddy/Caddyfile"]
        with running(command, environ, folder / "proxy.log") as process:
            answers("https://llava.corp/", process, folder / "proxy.log", verify=_trusting(trusted))
            yield trusted


@contextmanager
def _jupyter(_blocks: list[str], folder: Path) -> Iterator[Path]:
    with certificate(folder) as trusted:
        command = [client("jupyter") / "jupyter-server", "--no-browser", "--allow-root"]
        command += ["--ip=127.0.0.1", "--port=443", "--ServerApp.base_url=/user/ann/"]
        command += ["--IdentityProvider.token=", "--ServerApp.allow_remote_access=True"]
        command += [f"--certfile={trusted}", f"--keyfile={trusted.with_suffix('.key')}"]
        environ = {**os.environ, "HOME": str(folder), "JUPYTER_RUNTIME_DIR": str(folder)}
        with running(command, environ, folder / "proxy.log", cwd=folder) as process:
            answers("https://hub.corp/", process, folder / "proxy.log", verify=_trusting(trusted))
            yield trusted


_PROXIES = {
    "nginx": _nginx,
    "Caddy": _caddy,
    "JupyterHub, Open OnDemand, code-server": _jupyter,
}


@pytest.mark.parametrize("heading", _PROXIES)
def test_everything_works_behind_it_by_the_public_name(
    heading: str, model: Path, tmp_path: Path, picture: Path
) -> None:
    blocks = shown(_PAGE, heading)
    found = re.search(r"--public-url (https://\S+)", blocks[0])
    assert found is not None
    public = found[1]
    with (
        _PROXIES[heading](blocks, tmp_path) as trusted,
        serving(blocks[0], model, tmp_path) as (server, key),
        httpx.Client(
            base_url=public,
            transport=httpx.HTTPTransport(verify=_trusting(trusted), local_address=_OTHER),
            trust_env=False,
            timeout=200,
        ) as http,
    ):
        path = http.base_url.path.rstrip("/")
        told = (tmp_path / "serve.log").read_text()
        assert f'"page": "{public}/#token=' in told
        _login(http, key, public, path)
        shows = {"Authorization": f"Bearer {key}"}
        assert http.get("/openapi.json", headers=shows).json()["servers"] == [{"url": path}]
        address = http.get("/controller", headers=shows).json()["controller"]
        assert address.startswith(f"{public}/llava/")
        models = http.post(f"{address}/list_models").json()["models"]
        assert models == [MODEL]
        _ask(http, shows, picture)
        forged = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil.example"}
        forged |= {"Forwarded": "for=6.6.6.6;host=evil.example", "X-Forwarded-Prefix": "/evil"}
        answer = http.get("/v1/models", headers={**shows, **forged})
        assert answer.status_code == 200, answer.text
        clients = {line["client"] for line in server.audited() if "client" in line}
        assert clients == {_OTHER if "--trusted-proxy" in blocks[0] else "127.0.0.1"}


def _login(http: httpx.Client, key: str, public: str, path: str) -> None:
    """Log in as a browser does, from the address without a slash on."""
    sent = http.get("", headers={"Accept": "text/html"}, follow_redirects=True)
    assert str(sent.url) == f"{public}/login", [str(one.url) for one in sent.history]
    origin = public.removesuffix(path)
    page = {"Origin": origin, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    wrong = http.post("/login", headers={**page, "Authorization": "Bearer no"})
    assert wrong.status_code == 401, wrong.text
    entered = http.post("/login", headers={**page, "Authorization": f"Bearer {key}"})
    assert entered.status_code == 204, entered.text
    cookie = entered.headers["set-cookie"]
    assert f"Path={path};" in cookie
    assert cookie.endswith("Secure")
    assert http.get("/v1/models").status_code == 200, "the cookie is for this path"
    evil = http.post("/login", headers={**page, "Origin": "https://evil.example"})
    assert evil.json()["error"]["code"] == "wrong_origin"
    http.cookies.clear()


def _ask(http: httpx.Client, shows: dict[str, str], picture: Path) -> None:
    """Ask about a picture, of more than the megabyte that some proxies take, in a stream."""
    data = base64.b64encode(picture.read_bytes() + bytes(2_000_000)).decode()
    url = {"url": f"data:image/png;base64,{data}"}
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": url}]
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=body, headers=shows) as answer:
        assert answer.status_code == 200, answer.read()
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert len(lines) > 2
