"""The page in a real Chromium: upload, stream, stop, leave; nothing from outside, no error."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.support.gateway import TOKEN, Gateway, gateway

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_QUIET = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_LONG = "word " * 300


@dataclass
class Tab:
    """A page, and everything that it asked for or complained about."""

    page: "playwright.Page"
    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def ask(self, question: str, *pictures: Path) -> None:
        """Add pictures, type a question and send it."""
        if pictures:
            self.page.set_input_files("#ask input[type=file]", [str(path) for path in pictures])
            thumbnails = self.page.locator("#ask .thumbnail-item")
            playwright.expect(thumbnails).to_have_count(len(pictures))
        self.page.locator("#ask textarea").fill(question)
        self.page.locator("#ask .submit-button").click()

    def said(self, text: str) -> "playwright.Locator":
        """Return the model's messages with a text."""
        return self.page.locator("#chat [data-testid=bot]").get_by_text(text)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("run")
    with gateway(folder, "--web", "--models", "echo", "other", engine="--step-s 0.02") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    if _CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=_CHROMIUM, args=_QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser: "playwright.Browser") -> Iterator[Tab]:
    context = browser.new_context(locale="en-US")
    opened = Tab(context.new_page())
    page = opened.page
    page.on("request", lambda request: opened.hosts.add(urlsplit(request.url).netloc))
    page.on("console", lambda said: _complain(opened, said.type, said.text))
    page.on("pageerror", lambda error: _complain(opened, "error", str(error)))
    yield opened
    context.close()


@dataclass
class OtherSite:
    """A web server on another port, and what it was asked for."""

    url: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def other_site() -> Iterator[OtherSite]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>other</title>")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        site = OtherSite(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield site
        server.shutdown()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (64, 48), "red").save(path)
    return path


def _complain(tab: Tab, kind: str, text: str) -> None:
    if kind in {"error", "warning"}:
        tab.complaints.append(f"{kind}: {text}")


def _open(tab: Tab, served: Gateway) -> None:
    tab.page.goto(f"{served.url}/#token={TOKEN}")
    tab.page.locator("#ask textarea").wait_for()


def _running(served: Gateway) -> int:
    with served.client() as http:
        models = http.get("/livez").json()["models"].values()
    return sum(model["running"] + model["waiting"] for model in models)


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.1)


def test_upload_stream_text_with_nothing_from_outside(
    tab: Tab, served: Gateway, picture: Path
) -> None:
    _open(tab, served)
    playwright.expect(tab.page.locator("#status")).to_contain_text("fp32 on cpu")
    tab.ask("what colour is it? " + "word " * 40, picture)
    seen: list[str] = []
    _until(lambda: bool(tab.said("You said").count()))
    answer = tab.page.locator("#chat [data-testid=bot]")
    while not tab.said("Picture 64x48 of 255,0,0.").count():
        seen.append(answer.inner_text())
    assert len({len(text) for text in seen}) > 3, "the answer did not come in pieces"
    assert tab.hosts - {"", served.url.removeprefix("http://")} == set()
    assert tab.complaints == []


def test_the_next_turn_knows_the_picture_and_clear_forgets_it(
    tab: Tab, served: Gateway, picture: Path
) -> None:
    _open(tab, served)
    tab.ask("first", picture)
    tab.said("You said: first").wait_for()
    tab.ask("second")
    tab.said("You said: second").wait_for()
    tab.page.get_by_label("Clear").click()
    playwright.expect(tab.page.locator("#chat [data-testid=bot]")).to_have_count(0)
    tab.ask("third")
    tab.said("You said: third").wait_for()
    assert tab.complaints == []


def test_stop_frees_the_slot_and_keeps_what_was_said(tab: Tab, served: Gateway) -> None:
    _open(tab, served)
    tab.ask(_LONG)
    tab.said("You said").wait_for()
    _until(lambda: _running(served) == 1)
    tab.page.locator("#ask .stop-button").click()
    _until(lambda: _running(served) == 0)
    assert tab.said("You said").count() == 1
    tab.ask("again")
    tab.said("You said: again").wait_for()
    assert tab.complaints == []


def test_closing_the_tab_mid_stream_frees_the_slot(tab: Tab, served: Gateway) -> None:
    _open(tab, served)
    tab.ask(_LONG)
    tab.said("You said").wait_for()
    _until(lambda: _running(served) == 1)
    tab.page.close()
    began_s = time.monotonic()
    _until(lambda: _running(served) == 0)
    assert time.monotonic() - began_s < 4


def test_another_model_can_be_chosen(tab: Tab, served: Gateway) -> None:
    _open(tab, served)
    tab.page.get_by_label("Model").click()
    tab.page.get_by_role("option", name="other").click()
    tab.ask("hello")
    tab.said("You said: hello").wait_for()
    with served.client() as http:
        _until(lambda: http.get("/livez").json()["models"]["other"]["steps"] > 0)


def test_what_is_not_a_picture_is_said(tab: Tab, served: Gateway, tmp_path: Path) -> None:
    false = tmp_path / "false.png"
    false.write_bytes(b"this is not a picture")
    _open(tab, served)
    tab.ask("what is it?", false)
    tab.page.get_by_text("not a picture, or a damaged one").wait_for()


def test_a_model_cannot_make_the_page_load_or_run_anything(
    tab: Tab, served: Gateway, other_site: "OtherSite"
) -> None:
    _open(tab, served)
    tab.ask(
        f"![x]({other_site.url}/a.png) <img src={other_site.url}/b.png onerror=alert(1)> "
        f"<link rel=stylesheet href={other_site.url}/c.css> "
        "<script>document.title='owned'</script> [end](javascript:alert(1))"
    )
    tab.said("end").wait_for()
    _until(lambda: _running(served) == 0)
    assert tab.page.title() == "llava-pack"
    assert other_site.asked == []


def test_without_the_token_there_is_only_the_login_form(tab: Tab, served: Gateway) -> None:
    tab.page.goto(served.url)
    field = tab.page.locator("#token")
    field.fill("wrong")
    tab.page.get_by_role("button").click()
    tab.page.get_by_text("not the one of this start").wait_for()
    field.fill(TOKEN)
    tab.page.get_by_role("button").click()
    tab.page.locator("#ask textarea").wait_for()
    assert TOKEN not in tab.page.url
    cookies = tab.page.context.cookies()
    assert [(c["httpOnly"], c["sameSite"]) for c in cookies] == [(True, "Strict")]
    assert TOKEN not in cookies[0]["value"]


def test_the_token_is_gone_from_the_address_bar_and_the_history(tab: Tab, served: Gateway) -> None:
    _open(tab, served)
    assert tab.page.url == f"{served.url}/"
    tab.page.go_back()
    assert TOKEN not in tab.page.url


def test_another_site_cannot_use_the_session(
    tab: Tab, served: Gateway, other_site: "OtherSite"
) -> None:
    """A page on another port of this host, which the browser counts as the same site."""
    _open(tab, served)
    tab.page.goto(f"{other_site.url}/page")
    assert other_site.asked[:1] == ["/page"]
    script = """async (url) => {
        const tries = [
            fetch(url + "/v1/models", {credentials: "include"}).then((r) => r.status),
            fetch(url + "/v1/models", {credentials: "include", mode: "no-cors"})
                .then((r) => r.type),
        ];
        return (await Promise.allSettled(tries)).map((t) => t.value ?? "refused");
    }"""
    assert tab.page.evaluate(script, served.url) == ["refused", "refused"]
