"""The login page in a real browser: it says what happened, and works below any path."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llava_pack.serve.access.key import Quota, new_key
from llava_pack.serve.access.key_store import KeyStore
from tests.support.gateway import TOKEN, Gateway, gateway

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from tests.support.page import Tab, chromium, opened_tab  # noqa: E402 - needs playwright

_PUBLIC = "https://llava.corp/vlm"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Make a store of keys; return what each is shown as, and the file."""
    store = KeyStore(tmp_path_factory.mktemp("keys") / "keys.json")
    shown = {"file": str(store.path)}
    for name, scope, expires in (("old", "page", 1), ("asker", "ask", 0)):
        key, shown[name] = new_key(name, scopes=[scope], quota=Quota(), created=0, expires=expires)  # type: ignore[list-item]
        store.add(key)
    return shown


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, keys: dict[str, str]) -> Iterator[Gateway]:
    options = ("--public-url", _PUBLIC, "--keys", keys["file"])
    with gateway(tmp_path_factory.mktemp("run"), *options) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with chromium("--host-resolver-rules=MAP *.corp 127.0.0.1") as running:
        yield running


@pytest.fixture
def tab(browser: "playwright.Browser") -> Iterator[Tab]:
    with opened_tab(browser) as opened:
        yield opened


def _said(tab: Tab, *words: str) -> None:
    """Wait until the page says each of some words."""
    for word in words:
        playwright.expect(tab.page.locator("#said")).to_contain_text(word)


def _enter(tab: Tab, key: str) -> None:
    tab.page.locator("#token").fill(key)
    tab.page.get_by_role("button").click()


@pytest.mark.parametrize("before", ["/vlm", ""])
def test_after_the_login_one_is_where_one_came_from(tab: Tab, served: Gateway, before: str) -> None:
    root = f"{served.url}{before}/"
    tab.page.goto(f"{root}?model=a&x=1#c=5")
    assert tab.page.url == f"{root}login?to=.%2F%3Fmodel%3Da%26x%3D1#c=5"
    _enter(tab, TOKEN)
    tab.page.wait_for_url(f"{root}?model=a&x=1#c=5")
    [cookie] = tab.page.context.cookies()
    assert (cookie["path"], cookie["secure"], cookie["httpOnly"]) == (before or "/", False, True)


def test_the_printed_address_leaves_no_token_in_the_address_bar(tab: Tab, served: Gateway) -> None:
    tab.page.goto(f"{served.url}/vlm/#token={TOKEN}")
    tab.page.wait_for_url(f"{served.url}/vlm/")
    tab.page.context.clear_cookies()
    tab.page.goto(f"{served.url}/vlm/login#token=wrong")
    _said(tab, "not valid here")
    assert tab.page.url == f"{served.url}/vlm/login"


_ELSEWHERE = (
    "//evil.corp/", "https://evil.corp", "/\\evil.corp", "javascript:alert(1)", "/other", "../x",
    "login", "http://[", "data:text/html,x",
)  # fmt: skip


def test_one_is_led_nowhere_else(tab: Tab, served: Gateway) -> None:
    for to in _ELSEWHERE:
        tab.page.goto(f"{served.url}/vlm/login?to={to}")
        _enter(tab, TOKEN)
        tab.page.wait_for_url(f"{served.url}/vlm/")


def test_a_key_that_does_not_open_the_page_is_told_why(
    tab: Tab, served: Gateway, keys: dict[str, str]
) -> None:
    tab.page.goto(f"{served.url}/login")
    for key, words in (
        ("wrong", ("This key or token is not valid here.", "密钥或令牌在此无效")),
        ("密钥", ("This key or token is not valid here.",)),
        ("A" * 43, ("not the token of the running server", "llava-pack tunnel", "不是正在运行")),
        (keys["old"], ("This key has expired.", "此密钥已过期")),
        (keys["asker"], ("lacks the scope page", "缺少 page 权限")),
    ):
        _enter(tab, key)
        _said(tab, *words)
        playwright.expect(tab.page.locator("#token")).to_have_value(key)


def test_what_became_of_an_earlier_login_is_told(tab: Tab, served: Gateway) -> None:
    tab.page.context.add_cookies(
        [{"name": "llava-pack-0123456789ab", "value": "x", "url": served.url}]
    )
    tab.page.goto(f"{served.url}/")
    _said(tab, "logged in to another start", "另一次启动")


def test_a_name_that_is_not_ours_is_told_with_what_would_make_it_ours(
    tab: Tab, served: Gateway
) -> None:
    tab.page.goto(f"http://other.corp:{served.port}/")
    _said(tab, "does not answer to the name other.corp", "--allowed-host other.corp", "不接受名称")
    assert not tab.page.locator("#token").is_visible()


def test_http_under_an_https_name_is_told(tab: Tab, served: Gateway) -> None:
    """Its cookie is for https alone, and the browser drops it."""
    tab.page.goto(f"http://llava.corp:{served.port}/vlm/")
    _enter(tab, TOKEN)
    _said(tab, f"Open {_PUBLIC}", "http 打开")


def test_cookies_that_are_blocked_are_told(tab: Tab, served: Gateway) -> None:
    def without_cookie(route: "playwright.Route") -> None:
        if "authorization" in route.request.headers:
            route.fulfill(status=204)  # what a browser that keeps no cookies makes of the answer
        else:
            route.continue_()

    tab.page.route("**/login", without_cookie)
    tab.page.goto(f"{served.url}/login")
    _enter(tab, TOKEN)
    _said(tab, "did not keep the cookie", f"for {served.url}", "没有保存")


def test_a_server_that_is_gone_is_told(tab: Tab, served: Gateway) -> None:
    tab.page.goto(f"{served.url}/login")
    tab.page.route("**/login", lambda route: route.abort())
    _enter(tab, TOKEN)
    _said(tab, "The server does not answer", "没有响应")


class _Taking(BaseHTTPRequestHandler):
    """A proxy that takes `/proxy/7860` away and says so to nobody, like an editor's in a browser."""

    port: int
    keeps_host: bool
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        own_host = f"127.0.0.1:{self.port}"
        headers = dict(self.headers.items())
        headers["Host"] = headers["Host"] if self.keeps_host else own_host
        asked = HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = self.rfile.read(int(headers.get("Content-Length", 0)))
        asked.request(self.command, self.path.removeprefix("/proxy/7860"), body, headers)
        answer = asked.getresponse()
        data = answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"content-length", "connection"}:
                self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        asked.close()

    do_GET = do_POST = _pass_on  # noqa: N815 - as the class above calls them

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def _taking(port: int, *, keeps_host: bool) -> Iterator[str]:
    kind = type("_Here", (_Taking,), {"port": port, "keeps_host": keeps_host})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/proxy/7860/"
        server.shutdown()


def test_below_a_path_that_a_proxy_takes_away_unsaid_the_login_works(
    tab: Tab, served: Gateway
) -> None:
    with _taking(served.port, keeps_host=True) as address:
        tab.page.goto(address)
        assert tab.page.url == f"{address}login"
        _enter(tab, TOKEN)
        tab.page.wait_for_url(address)
        assert tab.page.context.request.get(f"{address}v1/models").status == 200


def test_an_address_that_the_server_does_not_know_is_told(tab: Tab, served: Gateway) -> None:
    with _taking(served.port, keeps_host=False) as address:
        tab.page.goto(address)
        _enter(tab, TOKEN)
        _said(tab, "does not know the address", f"--public-url {address.rstrip('/')}", "不认识地址")
