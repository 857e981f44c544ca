"""The page in a real Chromium: upload, stream, stop, leave; nothing from outside, no error."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from tests.support.gateway import TOKEN, Gateway, gateway
from tests.support.waiting import until

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from tests.support.page import Tab, chromium, opened_tab  # noqa: E402 - needs playwright

_LONG = "word " * 600  # of which the page takes 512, in 20 s
_NOTE_LENGTHS = """() => {
    window.lengths = new Set();
    new MutationObserver(() => {
        const answer = document.querySelector("#chat [data-testid=bot]");
        if (answer !== null) window.lengths.add(answer.innerText.length);
    }).observe(document, {childList: true, subtree: true, characterData: true});
}"""
_ENGINE = "--step-s 0.04 --context 8192"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("run")
    with gateway(folder, "--web", "--models", "echo", "other", engine=_ENGINE) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with chromium() as running:
        yield running


@pytest.fixture
def tab(browser: "playwright.Browser") -> Iterator[Tab]:
    with opened_tab(browser) as opened:
        yield opened


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


def _running(served: Gateway) -> int:
    with served.client() as http:
        models = http.get("/livez").json()["models"].values()
    return sum(model["running"] + model["waiting"] for model in models)


def _steps(served: Gateway) -> int:
    with served.client() as http:
        return int(http.get("/livez").json()["models"]["echo"]["steps"])


def test_upload_stream_text_with_nothing_from_outside(
    tab: Tab, served: Gateway, picture: Path
) -> None:
    tab.open(served)
    playwright.expect(tab.page.locator("#status")).to_contain_text("fp32 on cpu")
    tab.page.evaluate(_NOTE_LENGTHS)
    tab.ask("what colour is it? " + "word " * 40, picture)
    tab.said("Picture 64x48 of 255,0,0.").wait_for()
    tab.answered()
    assert tab.page.evaluate("window.lengths.size") > 3, "the answer did not come in pieces"
    playwright.expect(tab.page.locator("#speed")).to_contain_text("tokens/s")
    assert tab.hosts - {"", served.url.removeprefix("http://")} == set()
    assert tab.complaints == []


def test_clear_forgets_what_was_said(tab: Tab, served: Gateway, picture: Path) -> None:
    tab.open(served)
    tab.ask("first", picture)
    tab.said("You said: first").wait_for()
    tab.answered()
    tab.ask("second")
    tab.said("You said: second").wait_for()
    tab.button("Clear").click()
    playwright.expect(tab.answers).to_have_count(0)
    tab.ask("third")
    tab.said("You said: third").wait_for()
    tab.answered()
    assert tab.answers.count() == 1
    assert tab.complaints == []


def test_clear_ends_an_answer_that_still_comes(tab: Tab, served: Gateway) -> None:
    """Whatever of the stream is on its way, a cleared conversation does not come back."""
    tab.open(served)
    tab.ask(_LONG)
    tab.said("You said").wait_for()
    until(lambda: _running(served) == 1)
    tab.button("Clear").click()
    until(lambda: _running(served) == 0)
    tab.answered()
    playwright.expect(tab.answers).to_have_count(0)
    tab.ask("again")
    tab.said("You said: again").wait_for()
    tab.answered()
    assert tab.answers.count() == 1
    assert tab.complaints == []


def test_stop_frees_the_slot_and_keeps_what_was_said(tab: Tab, served: Gateway) -> None:
    tab.open(served)
    tab.ask(_LONG)
    tab.said("You said").wait_for()
    until(lambda: _running(served) == 1)
    tab.page.locator("#ask .stop-button").click()
    until(lambda: _running(served) == 0)
    assert tab.said("You said").count() == 1
    tab.answered()
    tab.ask("again")
    tab.said("You said: again").wait_for()
    assert tab.answers.count() == 2
    assert tab.complaints == []


def test_retry_answers_again_and_undo_gives_the_question_back(
    tab: Tab, served: Gateway, picture: Path
) -> None:
    tab.open(served)
    tab.ask("first")
    tab.said("You said: first").wait_for()
    tab.answered()
    tab.ask("second", picture)
    tab.said("of 255,0,0.").wait_for()
    tab.answered()
    before = tab.answers.last.inner_text()
    tab.button("Retry").click()
    playwright.expect(tab.answers.last).not_to_have_text(before)  # drawn anew, at 0.2
    playwright.expect(tab.answers.last).to_contain_text("You said: second Picture 64x48")
    tab.answered()
    assert tab.answers.count() == 2
    tab.button("Undo").click()
    playwright.expect(tab.answers).to_have_count(1)
    playwright.expect(tab.box).to_have_value("second")
    playwright.expect(tab.thumbnails).to_have_count(1)
    assert tab.complaints == []


def test_closing_the_tab_mid_stream_frees_the_slot(tab: Tab, served: Gateway) -> None:
    tab.open(served)
    before = _steps(served)
    tab.ask(_LONG)
    tab.said("You said").wait_for()
    until(lambda: _running(served) == 1)
    tab.page.close()
    until(lambda: _running(served) == 0)
    assert _steps(served) - before < 500, "the whole answer was worked out for nobody"


def test_another_model_can_be_chosen(tab: Tab, served: Gateway) -> None:
    tab.open(served)
    tab.page.get_by_label("Model").click()
    tab.page.get_by_role("option", name="other").click()
    tab.ask("hello")
    tab.said("You said: hello").wait_for()
    with served.client() as http:
        until(lambda: http.get("/livez").json()["models"]["other"]["steps"] > 0)


def test_what_is_not_a_picture_is_said_and_the_question_comes_back(
    tab: Tab, served: Gateway, tmp_path: Path
) -> None:
    false = tmp_path / "false.png"
    false.write_bytes(b"this is not a picture")
    tab.open(served)
    tab.ask("first")
    tab.said("You said: first").wait_for()
    tab.answered()
    tab.ask("what is it?", false)
    tab.page.get_by_text("not a picture, or a damaged one").wait_for()
    playwright.expect(tab.box).to_have_value("what is it?")
    tab.answered()
    assert tab.answers.count() == 1, "what was said before is still there"
    tab.page.locator("#ask .delete-button").click()
    playwright.expect(tab.thumbnails).to_have_count(0)
    tab.ask("and now?")
    tab.said("You said: and now?").wait_for()


def test_a_question_beyond_the_models_limit_comes_back(tab: Tab, served: Gateway) -> None:
    tab.open(served)
    tab.ask("word " * 9000)
    tab.page.get_by_text("the model's limit is 8192").wait_for()
    tab.answered()
    tab.ask("short")
    tab.said("You said: short").wait_for()


def test_a_model_cannot_make_the_page_load_or_run_anything(
    tab: Tab, served: Gateway, other_site: "OtherSite"
) -> None:
    tab.open(served)
    tab.ask(
        f"![x]({other_site.url}/a.png) <img src={other_site.url}/b.png onerror=alert(1)> "
        f"<link rel=stylesheet href={other_site.url}/c.css> "
        "<script>document.title='owned'</script> [end](javascript:alert(1))"
    )
    tab.said("end").wait_for()
    until(lambda: _running(served) == 0)
    assert tab.page.title() == "llava-pack"
    assert other_site.asked == []


def test_without_the_token_there_is_only_the_login_form(tab: Tab, served: Gateway) -> None:
    tab.page.goto(served.url)
    field = tab.page.locator("#token")
    field.fill("wrong")
    tab.page.get_by_role("button").click()
    tab.page.get_by_text("not valid here").wait_for()
    field.fill(TOKEN)
    tab.page.get_by_role("button").click()
    tab.page.locator("#ask textarea").wait_for()
    assert TOKEN not in tab.page.url
    cookies = tab.page.context.cookies()
    assert {(c["httpOnly"], c["sameSite"]) for c in cookies} == {(True, "Strict")}
    assert not any(TOKEN in cookie["value"] for cookie in cookies)


def test_the_token_is_gone_from_the_address_bar_and_the_history(tab: Tab, served: Gateway) -> None:
    tab.open(served)
    assert tab.page.url == f"{served.url}/"
    tab.page.go_back()
    assert TOKEN not in tab.page.url


def test_another_site_cannot_use_the_session(
    tab: Tab, served: Gateway, other_site: "OtherSite"
) -> None:
    """A page on another port of this host, which the browser counts as the same site."""
    tab.open(served)
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
