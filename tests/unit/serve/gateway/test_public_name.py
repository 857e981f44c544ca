"""The gateway below a path, behind a proxy, and asked by pages of other origins: all of its layers."""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from llava_pack.serve.access.audit import AuditPlan
from llava_pack.serve.access.audit_sinks import sink_of
from llava_pack.serve.access.policy import AccessPolicy
from llava_pack.serve.access.public_name import PublicName, public_name
from llava_pack.serve.access.sessions import RENEW_S, Session
from llava_pack.serve.gateway.app import GatewaySettings, create_app

_TOKEN = "the-token"
_SHOWN = {"Authorization": f"Bearer {_TOKEN}"}
_NAME = public_name(
    public_url="https://llava.corp/vlm", origins=["https://chat.corp"], proxies=["127.0.0.1"]
)
_STRIPPED = {
    "Host": "127.0.0.1:7860", "X-Forwarded-Host": "llava.corp", "X-Forwarded-Proto": "https",
    "X-Forwarded-For": "192.0.2.7",
}  # fmt: skip


def _policy(name: PublicName = _NAME, *, token: bool = True) -> AccessPolicy:
    return AccessPolicy(secrets=(_TOKEN,) if token else None, start_secret="s", name=name)


def _ask(
    method: str, path: str, headers: Mapping[str, str], policy: AccessPolicy | None = None,
    audit: Path | None = None,
) -> httpx.Response:  # fmt: skip
    """Ask a gateway without a model; httpx has the address 127.0.0.1."""
    sink = sink_of(AuditPlan(to="file", path=str(audit))) if audit else None
    settings = GatewaySettings(policy=policy or _policy(), web=False, sink=sink)
    transport = httpx.ASGITransport(create_app({}, settings))

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport) as http:
            return await http.request(method, f"http://localhost{path}", headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("path", "headers", "where"),
    [
        ("/vlm/login", {"Host": "127.0.0.1:7860"}, "Path=/vlm"),
        ("/login", _STRIPPED, "Path=/vlm; SameSite=strict; Secure"),
        ("/vlm/login", {"Host": "llava.corp"}, "Path=/vlm; SameSite=strict; Secure"),
        ("/login", {"Host": "localhost", "Origin": "https://llava.corp"}, "Path=/vlm"),
        ("/login", {"Host": "localhost"}, "Path=/; SameSite=strict"),
    ],
)
def test_the_cookie_is_for_our_own_paths_and_for_https_where_it_came_by_it(
    path: str, headers: dict[str, str], where: str
) -> None:
    answer = _ask("POST", path, {**headers, **_SHOWN})
    assert answer.status_code == 204, answer.text
    cookie = answer.headers["set-cookie"]
    assert cookie.endswith(where) or f"{where};" in cookie
    assert cookie.count("Secure") == where.count("Secure")


def test_a_cookie_is_renewed_where_it_is_known_for_which_paths() -> None:
    policy = _policy()
    old = policy.derived.cookie(Session("token", began=2_000_000_000, seen=0))
    now = {"Cookie": f"{policy.derived.cookie_name}={old}"}
    assert _ask("GET", "/vlm/livez", {"Host": "localhost", **now}).status_code == 401
    seen = _now_s() - RENEW_S
    shown = policy.derived.cookie(Session("token", began=seen, seen=seen))
    cookie = {"Cookie": f"{policy.derived.cookie_name}={shown}", "Host": "localhost"}
    assert "Path=/vlm;" in _ask("GET", "/vlm/livez", cookie).headers["set-cookie"]
    assert "set-cookie" not in _ask("GET", "/livez", cookie).headers
    plain = _ask("GET", "/livez", cookie, _policy(PublicName()))
    assert "Path=/;" in plain.headers["set-cookie"]


def test_the_way_to_the_login_and_back_is_relative() -> None:
    person = {"Host": "localhost", "Accept": "text/html"}
    for path in ("/", "/vlm/"):
        assert _ask("GET", path, person).headers["location"] == "login"
    there = _ask("GET", "/vlm/?model=a&x=//evil", person).headers["location"]
    assert there == "login?to=.%2F%3Fmodel%3Da%26x%3D%2F%2Fevil"
    bare = _ask("GET", "/vlm", person)
    assert (bare.status_code, bare.headers["location"]) == (308, "/vlm/")
    assert _ask("GET", "/vlm", {"Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize("path", ["/vlm/openapi.json", "/openapi.json"])
def test_the_schema_says_where_its_paths_are(path: str) -> None:
    schema = _ask("GET", path, {**_STRIPPED, **_SHOWN}).json()
    assert schema["servers"] == [{"url": "/vlm"}]
    assert "/v1/models" in schema["paths"]


@pytest.mark.parametrize("path", ["/vlm/controller", "/controller"])
def test_llavas_own_clients_are_told_the_public_address(path: str) -> None:
    told = _ask("GET", path, {**_STRIPPED, **_SHOWN}).json()["controller"]
    key = _policy().llava_path
    assert told == f"https://llava.corp/vlm{key}"
    asked = _ask("POST", f"/vlm{key}/list_models", _STRIPPED)
    assert (asked.status_code, asked.json()) == (200, {"models": []})
    direct = _ask("GET", "/controller", {"Host": "localhost:7860", **_SHOWN}).json()["controller"]
    assert direct == f"http://localhost:7860{key}"


@pytest.mark.parametrize("path", ["/vlm/vlm/v1/models", "/vlmx/v1/models", "//vlm/v1/models"])
def test_a_path_that_begins_otherwise_is_in_no_row(path: str) -> None:
    transport = httpx.ASGITransport(create_app({}, GatewaySettings(policy=_policy(), web=False)))

    async def ask() -> int:
        async with httpx.AsyncClient(transport=transport) as http:
            url = httpx.URL("http://localhost").copy_with(raw_path=path.encode())
            return (await http.get(url, headers=_SHOWN)).status_code

    assert asyncio.run(ask()) == 404


def test_the_audit_log_has_the_address_of_who_asked(tmp_path: Path) -> None:
    """And of a proxy that nobody listed, its own: what it says does not count."""
    for name, client in ((_NAME, "192.0.2.7"), (PublicName(), "127.0.0.1")):
        audit = tmp_path / f"{client}.log"
        headers = {**_STRIPPED, "X-Forwarded-Host": "localhost", **_SHOWN}
        assert _ask("GET", "/v1/models", headers, _policy(name), audit).status_code == 200
        assert json.loads(audit.read_text())["client"] == client


# Requests of real pages: the OpenAI and Anthropic libraries, LangChain, a page with fetch.
_PREFLIGHTS = [
    (
        "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,"
        "x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,"
        "x-stainless-runtime-version,x-stainless-timeout"
    ),
    "anthropic-dangerous-direct-browser-access,anthropic-version,content-type,x-api-key",
    "authorization,content-type,http-referer,x-title",
    "authorization, last-event-id, openai-organization, openai-project, openai-beta",
]


@pytest.mark.parametrize("wanted", _PREFLIGHTS)
def test_a_listed_page_may_ask_without_a_key_what_it_may_ask(wanted: str) -> None:
    sent = {
        "Host": "localhost:7860", "Origin": "https://chat.corp",
        "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": wanted,
    }  # fmt: skip
    answer = _ask("OPTIONS", "/v1/chat/completions", sent)
    assert (answer.status_code, answer.text) == (204, "")
    told = answer.headers
    assert told["access-control-allow-origin"] == "https://chat.corp"
    assert told["vary"] == "Origin"
    assert "POST" in told["access-control-allow-methods"]
    allowed = {name.strip() for name in told["access-control-allow-headers"].split(",")}
    assert allowed == {name.strip() for name in wanted.split(",")}
    assert "access-control-allow-credentials" not in told
    assert "x-request-id" in told
    elsewhere = _ask("OPTIONS", "/no/such/path", sent).headers
    assert {**elsewhere, "x-request-id": ""} == {**told, "x-request-id": ""}


def test_headers_by_which_proxies_speak_are_shut_to_pages() -> None:
    sent = {
        "Host": "localhost", "Origin": "https://chat.corp", "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "x-forwarded-for, Forwarded, cookie, host, x-a, b\x7fc, ,é",
        "Access-Control-Request-Private-Network": "true",
    }  # fmt: skip
    raw = {key: value.encode("latin-1") for key, value in sent.items()}
    told = _ask("OPTIONS", "/v1/models", raw).headers  # type: ignore[arg-type]
    assert told["access-control-allow-headers"] == "x-a"
    assert told["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://evil.example", 403), ("null", 403), ("http://chat.corp", 403),
     ("https://llava.corp", 401), ("http://localhost:7860", 401)],
)  # fmt: skip
def test_nobody_else_is_answered_a_preflight(origin: str, status: int) -> None:
    sent = {"Host": "localhost:7860", "Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = _ask("OPTIONS", "/v1/chat/completions", sent)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"


def test_a_listed_page_reads_every_answer_a_refusal_too() -> None:
    page = {"Host": "localhost", "Origin": "https://chat.corp"}
    for headers, path, status in (
        ({**page, **_SHOWN}, "/v1/models", 200),
        ({**page, **_SHOWN}, "/v1/models/absent", 404),
        (page, "/v1/models", 401),
        ({**page, "Host": "evil.example"}, "/v1/models", 421),
    ):
        answer = _ask("GET", path, headers)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == "https://chat.corp"
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
    assert "vary" not in _ask("GET", "/v1/models", page, _policy(PublicName())).headers


def test_a_listed_page_asks_with_a_key_of_its_own_and_never_with_a_cookie() -> None:
    """A page of the same site, such as another port of localhost, would send the cookie along."""
    policy = _policy(public_name(origins=["http://localhost:3000"]))
    derived, now_s = policy.derived, _now_s()
    cookie = f"{derived.cookie_name}={derived.cookie(Session('token', now_s, now_s))}"
    own = {"Host": "localhost:7860", "Origin": "http://localhost:7860", "Cookie": cookie}
    assert _ask("GET", "/v1/models", own, policy).status_code == 200
    other = {**own, "Origin": "http://localhost:3000"}
    assert _ask("GET", "/v1/models", other, policy).status_code == 401
    assert _ask("GET", "/v1/models", {**other, **_SHOWN}, policy).status_code == 200


def test_any_page_may_ask_where_every_origin_is_listed_but_not_without_a_key() -> None:
    policy = _policy(public_name(origins=["*"]))
    page = {"Host": "localhost", "Origin": "null"}
    assert _ask("GET", "/v1/models", page, policy).status_code == 401
    answer = _ask("GET", "/v1/models", {**page, **_SHOWN}, policy)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "null"
    picture = {"Host": "localhost", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert _ask("GET", "/v1/models", {**picture, **_SHOWN}, policy).status_code == 403


def _now_s() -> int:
    return int(time.time())


@pytest.mark.parametrize(
    ("host", "shown"),
    [("host.docker.internal:7860", "host.docker.internal:7860"), ("a\x1b[31m", "\\x1b[31m"),
     ("x" * 500, "x" * 80)],
)  # fmt: skip
def test_a_refused_host_is_told_what_came_and_what_would_allow_it(host: str, shown: str) -> None:
    message = _ask("GET", "/v1/models", {"Host": host}).json()["error"]["message"]
    assert shown in message.replace("\\\\", "\\")
    assert "--allowed-host" in message
    assert len(message) < 300


def test_a_refused_origin_is_told_what_would_allow_it() -> None:
    sent = {"Host": "localhost", "Origin": "https://other.corp"}
    error = _ask("POST", "/login", sent).json()["error"]
    assert error["code"] == "wrong_origin"
    assert "https://other.corp" in error["message"]
    assert "--allow-origin" in error["message"]
    assert "--public-url" in error["message"]


def test_the_token_of_another_start_is_told_apart_from_a_wrong_key() -> None:
    def code(key: str) -> Any:
        sent = {"Host": "localhost", "Authorization": f"Bearer {key}"}
        return _ask("POST", "/login", sent).json()["error"]["code"]

    assert code("A" * 43) == "token_of_another_start"
    assert code("lp_0123456789ab_" + "x" * 43) == code("x" * 42) == "invalid_api_key"


@pytest.mark.parametrize(
    ("cookie", "why"),
    [("", ""), ("llava-pack-0123456789ab=token.1.1.x", "restarted"), ("llava-pack-page=x", ""),
     ("OURS=token.1.1.x", "ended"), ("OURS=GOOD", "")],
)  # fmt: skip
def test_the_form_says_what_became_of_an_earlier_login(cookie: str, why: str) -> None:
    derived = _policy().derived
    good = derived.cookie(Session("token", _now_s(), _now_s()))
    shown = cookie.replace("OURS", derived.cookie_name).replace("GOOD", good)
    page = _ask("GET", "/vlm/login", {"Host": "localhost", "Cookie": shown})
    facts = re.search(r"<body ([^>]*)>", page.text)
    assert facts is not None
    assert facts[1] == f'data-why="{why}" data-host="" data-public-url="https://llava.corp/vlm"'


def test_a_person_under_a_wrong_name_gets_a_page_that_says_so() -> None:
    person = {"Accept": "text/html", "Host": 'a"><script>x</script>.corp:7860'}
    for path in ("/", "/login"):
        page = _ask("GET", path, person)
        assert page.status_code == 421
        assert 'data-why="wrong_host"' in page.text
        assert "<script>x" not in page.text
        assert "&lt;script&gt;" in page.text
        assert page.headers["content-security-policy"].startswith("default-src 'none'")


def test_the_form_has_no_address_of_its_own() -> None:
    """It stands below any path, also one that a proxy takes away without saying so."""
    text = _ask("GET", "/login", {"Host": "localhost"}).text
    assert not re.search(r"""["'(]/(?!\.)[a-z]|(?:href|src|action)=["'](?!data:)""", text)
