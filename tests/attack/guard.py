"""The guard under attack: odd paths, methods, headers and connections against the real routes.

    python -m pytest -n 0 tests/attack/guard.py

Raw bytes go over real connections to uvicorn. A spy between the guard and the routes notes which
route each request reached; what each route needs is written down by hand, apart from the table that
the guard uses. The seed is printed; LLAVA_PACK_ATTACK_SEED repeats a run.
"""

import asyncio
import json
import logging
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from llava_pack.serve.access.key import Quota, new_key
from llava_pack.serve.access.key_store import KeyStore
from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.access.public_name import public_name
from llava_pack.serve.access.scopes import Scope as KeyScope
from llava_pack.serve.access.sessions import Session
from llava_pack.serve.admission.bodies import Admission
from llava_pack.serve.caller import caller_of
from llava_pack.serve.gateway.app import GatewaySettings, create_app
from llava_pack.serve.gateway.guard import Boundary, Guard
from llava_pack.serve.gateway.public_address import PublicAddress
from llava_pack.serve.gateway.routes import KnownRoutes
from tests.conftest import ROOT
from tests.unit.serve.access.test_scopes import BY_PAGE, NEEDS

TOKEN = "the token that no attack has"
PATHS = (
    "/", "/login", "/livez", "/health", "/v1/health/live", "/readyz", "/v1/health/ready",
    "/startupz", "/metrics", "/observe", "/openapi.json", "/docs", "/tokenize", "/controller",
    "/v1/chat/completions", "/v1/models", "/v1/models/x", "/v1/x", "/list_models",
    "/worker_generate_stream", "/register_worker", "/llava/x/list_models",
    "/llava/token.0/worker_generate_stream", "/config", "/page/facts",
    "/page/..%2f..%2fetc%2fpasswd", "/page/", "/monitoring", "/logout", "/login/",
    "/static/x", "/favicon.ico", "/theme.css", "/vlm/metrics", "/vlm/login",
    "/vlm/v1/models",
)  # fmt: skip
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "get",
           "LOGIN", "CONNECT")  # fmt: skip
TRICKS = (
    "GET /login/../metrics", "GET /login/..%2fmetrics", "GET /login;/metrics", "GET /login%2f",
    "GET /login%00/metrics", "GET /login%0a", "GET /login?/metrics", "GET /login#/metrics",
    "GET //login", "GET /./login", "GET /livez/../metrics", "GET /livez%2f..%2fmetrics",
    "GET /livez%0a", "GET /metrics%0a", "GET /readyz%0a", "GET /v1/health/ready%0a",
    "GET /v1/health/ready%0A", "GET /v1/../metrics", "GET /v1/%2e%2e/metrics",
    "GET /v1/..%2fmetrics", "GET /v1/models/../../metrics", "GET /v1//metrics",
    "GET /page/../metrics", "GET /page/%2e%2e/metrics", "GET /page/./../metrics",
    "GET /static/..%5c..%5cmetrics", "POST /observe%0a", "POST /tokenize%0a",
    "POST /v1/chat/completions%0a", "POST /llava/x/../../observe", "POST /llava/x/list_models%0a",
    "GET /llava/x/list_models", "POST /llava//list_models", "GET http://localhost/metrics",
    "GET http://localhost/login", "GET http://evil.example/metrics", "GET http:///metrics",
    "TRACE /v1/models", "PROPFIND /v1/x", "get /v1/models", "CONNECT /v1/../page/facts",
    "OPTIONS *", "CONNECT localhost:80", "GET metrics", "GET /%6detrics", "GET /m%65trics",
    "GET /%256detrics", "GET /METRICS", "GET /metrics/", "GET /metrics/.", "GET /metrics?login",
    "GET /vlm/../metrics", "GET /vlm/vlm/metrics", "GET /vlm%2fmetrics", "GET /vlm//metrics",
    "GET /vlm/login/../metrics", "GET /vlm/login%0a", "GET /vlm", "GET /vlm/", "GET /vlmx/metrics",
    "POST /vlm/observe", "GET /login/vlm/metrics", "GET //vlm/metrics", "GET /vlm/%2e%2e/metrics",
    "GET /%ef%bc%8fmetrics", "GET /metrics%20", "GET /metrics%09", "GET /metrics;", "GET /%",
)  # fmt: skip


_BESIDE = (
    "Host: localhost", "Host: evil.example", "X-Forwarded-Host: localhost",
    "X-Forwarded-For: 127.0.0.1", "X-Original-URL: /login", "X-Rewrite-URL: /login",
    "X-HTTP-Method-Override: GET", "X-Forwarded-Prefix: /login", "Origin: null",
    "X-Forwarded-Prefix: /vlm", "X-Forwarded-Proto: https", "Origin: https://chat.corp",
    "Forwarded: for=127.0.0.1;host=localhost;proto=https", "Access-Control-Request-Method: POST",
    "Origin: http://localhost", "Sec-Fetch-Site: cross-site", "Authorization: Bearer",
    "Authorization: Bearer null", "Authorization: Basic dG9rZW46", "X-Api-Key: token",
    "Cookie: llava-pack=token", "Cookie: token=1; token=2", "Upgrade: websocket",
    "Connection: Upgrade", "Connection: keep-alive, Host", "Expect: 100-continue",
    "Upgrade: h2c", "Accept: text/html", "Content-Type: application/json",
    "Range: bytes=0-1,2-3", " folded: yes", "Bad\x01Name: x", "X: \x00",
)  # fmt: skip
_WAITING = ("Content-Length", "Transfer-Encoding", "Expect", "Upgrade")


@dataclass
class Spy:
    """Notes which routes were reached, by whom."""

    app: Any
    reached: list[tuple[str, str]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        inner = {**scope, "app": self.app}
        try:
            await self.app.router(inner, receive, send)
        finally:
            if "endpoint" in inner:
                template = getattr(inner.get("route"), "path", scope["path"])
                self.reached.append((template, caller_of(scope).name))


@dataclass(frozen=True)
class Attacker:
    """Somebody with what they hold: headers of one kind, and the scopes that these open."""

    name: str
    scopes: tuple[str, ...]
    headers: tuple[str, ...]


@dataclass(frozen=True)
class Violation:
    """What must not be."""

    attacker: str
    request: str
    what: str


@contextmanager
def attacked(folder: Path, *, web: bool) -> Iterator[tuple[Spy, int, list[Attacker]]]:
    """Serve the real routes behind the real guard; give spy, port and who attacks."""
    store = KeyStore(folder / "keys" / "keys.json")
    name = public_name(root_path="/vlm", origins=["https://chat.corp"], proxies=["127.0.0.1"])
    policy = AccessPolicy(secrets=(TOKEN,), key_store=str(store.path), name=name)
    app = create_app({}, GatewaySettings(policy=policy, web=web))
    spy = Spy(app)
    guarded = Guard(Admission(KnownRoutes(spy, tuple(app.routes))), policy)
    layers = PublicAddress(Boundary(guarded), name)
    config = uvicorn.Config(
        layers, log_config=None, lifespan="off", ws="none", timeout_keep_alive=0
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        serving = threading.Thread(
            target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True
        )
        serving.start()
        try:
            yield spy, port, list(_attackers(store, policy))
        finally:
            server.should_exit = True
            serving.join()


def _attackers(store: KeyStore, policy: AccessPolicy) -> Iterator[Attacker]:
    now_s = int(time.time())

    def made(name: str, *scopes: KeyScope, expires: int = 0) -> tuple[str, str]:
        key, text = new_key(name, scopes=scopes, quota=Quota(), created=0, expires=expires)
        store.add(key)
        return key.id, text

    derived, bearer = policy.derived, "Authorization: Bearer "
    yield Attacker("nobody", (), ())
    yield Attacker("guesser", (), (f"{bearer}{TOKEN[:-1]}", f"X-Api-Key: {TOKEN.upper()}"))
    for scope in ("ask", "observe", "page", "admin"):
        key_id, text = made(scope, scope)
        yield Attacker(f"{scope} by header", (scope, "any"), (f"{bearer}{text}",))
        cookie = derived.cookie(Session(key_id, now_s, now_s))
        yield Attacker(
            f"{scope} by cookie", (scope, "any"), (f"Cookie: {derived.cookie_name}={cookie}",)
        )
    _, text = made("expired", "ask", expires=1)
    yield Attacker("expired", (), (f"{bearer}{text}",))
    gone, text = made("gone", "ask")
    store.revoke("gone")
    cookie = derived.cookie(Session(gone, now_s, now_s))
    yield Attacker("revoked", (), (f"{bearer}{text}", f"Cookie: {derived.cookie_name}={cookie}"))
    forged = derived.cookie(Session(gone, now_s, now_s)).replace(gone, "token")
    yield Attacker("forger", (), (f"Cookie: {derived.cookie_name}={forged}",))


def requests(seed: int, count: int) -> list[tuple[str, list[str], bytes]]:
    """Return request lines with headers and a body: the known tricks, then random ones."""
    chance = random.Random(seed)
    made = [(f"{trick} HTTP/1.1", ["Host: localhost"], b"") for trick in TRICKS]
    while len(made) < count:
        target = chance.choice(PATHS)
        for _ in range(chance.choice((0, 1, 1, 2, 3))):
            target = _bent(chance, target)
        line = (
            f"{chance.choice((*METHODS, *METHODS[:2] * 6))} {target} HTTP/1.{chance.choice('1110')}"
        )
        headers, body = _headers(chance)
        made.append((line, headers, body))
    return made[:count]


def _bent(chance: random.Random, target: str) -> str:
    """Return a target that a careless reader takes for another one."""
    at = chance.randrange(len(target) + 1)
    char = target[at : at + 1] or "/"
    encoded = "".join(f"%{byte:02x}" for byte in char.encode())
    return chance.choice(
        [
            target[:at] + encoded + target[at + 1 :],
            target[:at] + encoded.replace("%", "%25") + target[at + 1 :],
            target[:at] + chance.choice(("%00", "%0a", "%0d", "%20", "%09", "%7f", "%5c", "%2f",
                                         "%2e", ";x", "//", "/./", "\\", "%c0%af", "%ff"))
            + target[at:],
            chance.choice(("/login/..", "/livez/..", "/v1/..", "/static/%2e%2e", "/.", "/x/..;",
                           "http://localhost", "http://evil.example", "//evil.example", "\\"))
            + target,
            target + chance.choice(("/", "//", "/.", "/..", "?", "?x=/login", "#", ";", "%0a",
                                    "/login", "/../login", "?token=x", ".json")),
            target.upper(), target.swapcase(), target.replace("/", "//", 1),
        ]
    )  # fmt: skip


def _headers(chance: random.Random) -> tuple[list[str], bytes]:
    host = chance.choice(
        ["localhost"] * 40
        + ["127.0.0.1:80", "[::1]", "LOCALHOST", "evil.example", "localhost.evil.example", "",
           "localhost@evil.example", "localhost:x", "localhost, evil.example", "0"]
    )  # fmt: skip
    headers = [f"Host: {host}"]
    body = b""
    headers += chance.choices(_BESIDE, k=chance.choice((0, 0, 1, 2)))
    if chance.random() < 0.2:
        hidden = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        body = chance.choice((hidden, b"0\r\n\r\n" + hidden, b"{}", b"[]"))
        lengths = [f"Content-Length: {len(body)}", "Content-Length: 0", "Content-Length: +5",
                   "Transfer-Encoding: chunked", "Transfer-Encoding: xchunked"]  # fmt: skip
        headers += chance.sample(lengths, chance.choice((1, 2)))
    return headers, body


def fire(port: int, line: str, headers: Sequence[str], body: bytes) -> list[int]:
    """Send one request on a connection of its own and return the statuses that came."""
    data = "\r\n".join([line, *headers, "", ""]).encode("utf-8", "surrogateescape") + body
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(data)
        if body or any(header.startswith(_WAITING) for header in headers):
            connection.shutdown(socket.SHUT_WR)  # else the server waits for more
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except ConnectionResetError:
            pass
    lines = answer.split(b"HTTP/1.1 ")[1:]
    return [int(one[:3]) for one in lines if one[:3].isdigit()]


def violations(
    folder: Path, seed: int, count: int, *, web: bool, among: Sequence[str] = ()
) -> tuple[list[Violation], int, int]:
    """Attack, and return what must not be, the number of tries, and of those that got through.

    Args:
        folder: for keys.
        seed: of the random requests.
        count: of requests; each attacker sends every one.
        web: whether the page is served too.
        among: names of the attackers; all of them by default.
    """
    found: list[Violation] = []
    tries = through = 0
    with attacked(folder, web=web) as (spy, port, attackers):
        for attacker in attackers:
            if among and attacker.name not in among:
                continue
            for line, headers, body in requests(seed, count):
                spy.reached.clear()
                statuses = fire(port, line, [*headers, *attacker.headers], body)
                tries += 1
                reached = list(spy.reached)
                through += bool(reached)
                what = [template for template, _ in reached if not _may(attacker, template)]
                if not attacker.scopes and 200 in statuses and not _is_form(line):
                    what.append(f"answered {statuses}")
                found += [Violation(attacker.name, f"{line} {headers}", one) for one in what]
    return found, tries, through


_FORMS = {"/login", "/vlm/login"}
"""With the path that may stand before it, and without."""


def _is_form(line: str) -> bool:
    method, target = line.split(" ")[:2]
    return method in {"GET", "HEAD"} and unquote(target.partition("?")[0]) in _FORMS


def _may(attacker: Attacker, template: str) -> bool:
    needs = NEEDS.get(template, "page")
    by_page = attacker.name == "page by cookie" and template in BY_PAGE
    return by_page or (needs or "any") in attacker.scopes


@pytest.mark.parametrize("served", ["the API", "the API and the page"])
def test_nothing_gets_past_the_guard(served: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("LLAVA_PACK_ATTACK_SEED", time.time_ns() % 10**9))
    given = [str(tmp_path), str(seed), "400", "web" if served.endswith("page") else "api"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.attack.guard", *given],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    said = json.loads(done.stdout.splitlines()[-1])
    print(
        f"\nseed {seed}: {served}: {said['tries']} tries, {said['through']} reached what is theirs"
    )
    assert said["tries"] >= 1000
    assert said["through"] > 15, "keys open what is theirs"
    assert said["found"] == []


def main(folder: str, seed: str, count: str, what: str) -> None:
    """Attack, and print what came of it as JSON."""
    logging.disable(logging.CRITICAL)
    found, tries, through = violations(Path(folder), int(seed), int(count), web=what == "web")
    print(json.dumps({"found": [asdict(one) for one in found], "tries": tries, "through": through}))


if __name__ == "__main__":
    main(*sys.argv[1:])
