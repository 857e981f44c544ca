"""The page in a real Chromium: ask, stop, lose the tunnel, restart, reload; nothing is lost."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.cut_tunnel import cut_tunnel
from tests.support.gateway import TOKEN, Gateway, gateway
from tests.support.waiting import until

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from tests.support.page import Tab, another_tab, chromium, opened_tab  # noqa: E402 - needs playwright

_LONG = "word " * 400  # of which the page takes 512 tokens, in 20 s
_CHAT = "**/v1/chat/completions"
_HOSTILE_NAME = "<img src=x onerror=document.title='owned'>"
_SECRET_SHOWN = "() => ({dom: document.documentElement.outerHTML, local: JSON.stringify({...localStorage, ...sessionStorage})})"


_RECORDS = """() => new Promise((resolve) => {
    indexedDB.open("llava-pack /").onsuccess = ({target: {result: database}}) => {
        const tables = ["conversations", "messages"];
        const transaction = database.transaction(tables);
        const counts = tables.map((table) => transaction.objectStore(table).count());
        transaction.oncomplete = () => resolve(counts.map((each) => each.result));
    };
})"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    options = ("--web", "--models", "echo", _HOSTILE_NAME)
    folder = tmp_path_factory.mktemp("run")
    with gateway(folder, *options, engine="--step-s 0.04 --context 4096") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with chromium() as running:
        yield running


@pytest.fixture
def tab(browser: "playwright.Browser") -> Iterator[Tab]:
    with opened_tab(browser) as opened:
        yield opened
        assert opened.complaints == []


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (64, 48), "red").save(path)
    return path


def _running(served: Gateway) -> int:
    with served.client() as http:
        models = http.get("/livez").json()["models"].values()
    return sum(model["running"] + model["waiting"] for model in models)


def _note_bodies(tab: Tab) -> list[dict[str, Any]]:
    """Return the questions that a tab asks from now on, as it sends them."""
    bodies: list[dict[str, Any]] = []
    tab.page.on(
        "request",
        lambda request: (
            bodies.append(request.post_data_json) if "chat/completions" in request.url else None
        ),
    )
    return bodies


def _look_now(tab: Tab) -> None:
    """Let the page ask how the server is, which it does every few seconds."""
    tab.page.evaluate("window.dispatchEvent(new Event('online'))")


_ENDED = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
_FAILED = {"error": {"message": "one of four caches is gone", "code": "internal_error"}}


def _piece(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def _stream(*chunks: dict[str, Any], last: str = "data: [DONE]\n\n") -> dict[str, str]:
    """Return an answer as a server streams it."""
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return {"body": body + last, "content_type": "text/event-stream"}


def _go_on(tab: Tab, rest: str) -> None:
    """Answer what ends with the beginning of an answer with the rest of it, as a server does."""

    def answer(route: "playwright.Route") -> None:
        if route.request.post_data_json["messages"][-1]["role"] != "assistant":
            route.continue_()
            return
        route.fulfill(**_stream(_piece(rest), _ENDED))

    tab.page.route(_CHAT, answer)


def test_a_picture_is_asked_about_with_nothing_from_outside(
    tab: Tab, served: Gateway, picture: Path
) -> None:
    tab.open(served.url)
    assert tab.page.url == f"{served.url}/", "the token left the address bar"
    playwright.expect(tab.box).to_be_focused()
    playwright.expect(tab.page.locator("#status")).to_contain_text("echo · fp32 on cpu · 0 running")
    lengths = """() => {
        window.lengths = new Set();
        new MutationObserver(() => window.lengths.add(document.querySelector(".assistant")?.innerText.length))
            .observe(document, {childList: true, subtree: true, characterData: true});
    }"""
    tab.page.evaluate(lengths)
    tab.add(picture)
    playwright.expect(tab.thumbnails).to_contain_text("red.png")
    playwright.expect(tab.thumbnails).to_contain_text("48")
    assert tab.thumbnails.get_by_role("img").get_attribute("alt") == "Picture: red.png"
    tab.ask("what colour is it? " + "word " * 30)
    tab.said("Picture 64x48 of 255,0,0.").wait_for()
    tab.answered()
    assert tab.page.evaluate("window.lengths.size") > 5, "the answer did not come in pieces"
    assert tab.state() == "whole"
    playwright.expect(tab.answers.last).to_contain_text("tokens/s")
    playwright.expect(tab.answers.last).to_contain_text("Picture 1 has only one colour, #ff0000")
    playwright.expect(tab.page.locator("#context")).to_contain_text("of 4,096 tokens")
    assert tab.questions.locator("img").count() == 1
    assert tab.hosts == {served.url.removeprefix("http://")}
    shown = tab.page.evaluate(_SECRET_SHOWN)
    assert TOKEN not in shown["dom"] + shown["local"]


def test_stop_frees_the_slot_keeps_what_was_said_and_it_can_go_on(
    tab: Tab, served: Gateway
) -> None:
    tab.open(served.url)
    tab.ask(_LONG)
    tab.said("You said").wait_for()
    until(lambda: _running(served) == 1)
    tab.page.get_by_role("button", name="Stop the answer").click()
    until(lambda: _running(served) == 0)
    tab.answered()
    playwright.expect(tab.answers.last).to_contain_text("You stopped this answer.")
    kept = tab.answers.last.locator(".body").inner_text()
    busy = {"error": {"message": "come back later", "code": "overloaded"}}
    tab.page.route(_CHAT, lambda route: route.fulfill(status=503, json=busy), times=1)
    tab.button("Continue").click()
    tab.notice("The server is busy").wait_for()
    assert tab.state() == "stopped", "an answer that could not go on ended as it did before"
    bodies = _note_bodies(tab)
    _go_on(tab, " to its end")
    tab.button("Continue").click()
    playwright.expect(tab.answers.last).to_contain_text("to its end")
    tab.answered()
    last = bodies[0]["messages"][-1]
    assert (last["role"], last["content"].strip()) == ("assistant", kept.strip())
    assert tab.answers.last.locator(".body").inner_text() == f"{kept.strip()} to its end"
    assert (tab.answers.count(), tab.state()) == (1, "whole")


def test_closing_the_tab_frees_the_slot_and_the_conversation_is_still_there(
    browser: "playwright.Browser", served: Gateway
) -> None:
    with opened_tab(browser) as tab:
        tab.open(served.url)
        tab.ask(_LONG)
        tab.said("You said: word word").wait_for()
        until(lambda: _running(served) == 1)
        later = another_tab(tab.page.context)
        tab.page.wait_for_timeout(1500)  # what came is kept every second
        tab.page.close()
        until(lambda: _running(served) == 0)
        later.page.clock.install()
        later.page.goto(served.url)
        later.said("You said: word word").wait_for()
        later.page.clock.fast_forward(20_000)
        playwright.expect(later.answers.last).to_have_attribute("data-state", "broken")
        later.page.get_by_role("button", name="Continue").wait_for()
        assert later.complaints == []


def test_a_reload_in_the_middle_of_an_answer_keeps_it(tab: Tab, served: Gateway) -> None:
    tab.open(served.url)
    tab.ask(_LONG)
    tab.said("You said: word word").wait_for()
    tab.page.wait_for_timeout(1200)  # what came is kept every second
    tab.box.fill("not sent yet")
    tab.page.route("**/tokenize", lambda route: route.fulfill(json={"count": 321}), times=1)
    tab.page.reload()
    tab.ready()
    playwright.expect(tab.page.locator("#context")).to_have_text("321 of 4,096 tokens")
    tab.page.route("**/tokenize", lambda route: route.abort())  # it is asked once, and kept
    tab.page.reload()
    tab.ready()
    playwright.expect(tab.box).to_have_value("not sent yet")
    playwright.expect(tab.answers.last).to_have_attribute("data-state", "broken")
    playwright.expect(tab.answers.last).to_contain_text("You said: word word")
    playwright.expect(tab.answers.last).to_contain_text("broke off")
    playwright.expect(tab.page.locator("#context")).to_have_text("321 of 4,096 tokens")
    tab.button("Continue").wait_for()


_ENDS: dict[str, tuple[dict[str, str], str, str]] = {
    "whole": (_stream(_piece("so"), _ENDED), "whole", "The answer is complete"),
    "line gone at the end": (_stream(_piece("so"), _ENDED, last=""), "whole", "complete"),
    "line gone": (_stream(_piece("so"), last=""), "broken", "the connection was lost"),
    "server failed": (_stream(_piece("so"), _FAILED), "broken", "This answer broke off."),
}


def test_how_an_answer_ended_is_shown_and_said_aloud(tab: Tab, served: Gateway) -> None:
    tab.open(served.url)
    for name, (stream, state, words) in _ENDS.items():
        tab.page.route(_CHAT, lambda route: route.fulfill(**stream), times=1)  # noqa: B023
        tab.ask(name)
        tab.answered()
        assert (name, tab.state()) == (name, state)
        playwright.expect(tab.page.locator("#announce")).to_contain_text(words)
    playwright.expect(tab.answers.last).to_contain_text("one of four caches is gone")
    assert "connection" not in tab.answers.last.inner_text()


def test_an_answer_that_is_slow_to_come_is_alive_in_every_tab(tab: Tab, served: Gateway) -> None:
    """Also in a duplicate of its tab, which begins with what that one kept."""
    tab.open(served.url)
    tab.page.route(_CHAT, lambda _: None)  # it hangs
    tab.ask("slow")
    signs = """() => new Promise((resolve) => {
        let count = 0;
        const channel = new BroadcastChannel("llava-pack /");
        channel.onmessage = () => { if (++count === 2) resolve(count); };
    })"""
    with tab.page.expect_popup() as opened:
        tab.page.evaluate("() => { window.open(location.href); }")
    playwright.expect(opened.value.locator("#status")).not_to_be_empty()
    assert opened.value.evaluate(signs) == 2
    playwright.expect(opened.value.locator(".assistant")).to_have_attribute("data-state", "running")
    tab.page.get_by_role("button", name="Stop the answer").click()
    playwright.expect(opened.value.locator(".assistant")).to_have_attribute("data-state", "stopped")


def test_a_picture_that_the_browser_does_not_have_is_never_left_out_unsaid(
    tab: Tab, served: Gateway, picture: Path
) -> None:
    tab.open(served.url)
    tab.ask("what?", picture)
    tab.said("Picture 64x48").wait_for()
    tab.answered()
    tab.page.evaluate("""() => new Promise((resolve) => {
        indexedDB.open("llava-pack /").onsuccess = ({target: {result: database}}) => {
            const transaction = database.transaction("pictures", "readwrite");
            transaction.objectStore("pictures").clear();
            transaction.oncomplete = resolve;
        };
    })""")
    bodies = _note_bodies(tab)
    tab.button("New answer").click()
    tab.notice("no longer has a picture of this conversation").wait_for()
    playwright.expect(tab.answers).to_contain_text("Picture 64x48")
    tab.page.evaluate("""() => {
        const put = IDBObjectStore.prototype.put;
        IDBObjectStore.prototype.put = function (record) {
            if (this.name === "pictures") throw new DOMException("full", "QuotaExceededError");
            return put.call(this, record);
        };
    }""")
    tab.fresh()
    tab.page.set_input_files("#files", str(picture))
    tab.notice("could not keep red.png").wait_for()
    tab.notice("The browser's storage is full").wait_for()
    assert (tab.thumbnails.count(), bodies) == (0, [])


def test_a_dropped_tunnel_erases_nothing(tab: Tab, served: Gateway, picture: Path) -> None:
    with cut_tunnel(served.port) as tunnel:
        tab.open(tunnel.url)
        tab.ask("first", picture)
        tab.said("You said: first").wait_for()
        tab.answered()
        tab.ask(_LONG)
        tab.said("You said: word word").wait_for()
        tunnel.cut()
        tab.answered()
        playwright.expect(tab.answers.last).to_contain_text("This answer broke off")
        _look_now(tab)
        tab.notice("Is the tunnel open?").wait_for()
        tab.send("asked without a tunnel")
        tab.notice("The connection to the server was lost").wait_for()
        playwright.expect(tab.box).to_have_value("asked without a tunnel")
        assert (tab.questions.count(), tab.answers.count()) == (2, 2)
        until(lambda: _running(served) == 0)
        tunnel.mend()
        _look_now(tab)
        playwright.expect(tab.notice("Trying again")).to_have_count(0)
        tab.button("Continue").click()
        playwright.expect(tab.answers.last).to_contain_text(
            re.compile(r"word\s*You said: You said: word")
        )
        tab.answered()
        assert tab.page.locator("#notices .notice").count() == 0
        tab.page.locator("#send").click()
        tab.said("You said: asked without a tunnel").wait_for()
        tab.answered()
        assert tab.questions.first.locator("img").count() == 1


def test_a_restarted_server_asks_for_the_login_and_nothing_that_was_written_is_lost(
    browser: "playwright.Browser", served: Gateway, tmp_path: Path, picture: Path
) -> None:
    with (
        gateway(tmp_path / "run", "--web", "--start-secret", "another start") as other,
        cut_tunnel(served.port) as tunnel,
        opened_tab(browser) as tab,
    ):
        tab.open(tunnel.url)
        tab.ask("first")
        tab.said("You said: first").wait_for()
        tab.answered()
        tab.add(picture)
        tunnel.cut()
        tunnel.mend(other.port)
        tab.send("second, after the restart")
        tab.page.wait_for_url("**/login")
        tab.page.fill("#token", TOKEN)
        tab.page.get_by_role("button").click()
        tab.ready()
        playwright.expect(tab.box).to_have_value("second, after the restart")
        playwright.expect(tab.thumbnails).to_have_count(1)
        playwright.expect(tab.answers).to_contain_text("You said: first")
        tab.page.locator("#send").click()
        tab.said("Picture 64x48 of 255,0,0.").wait_for()
        assert tab.complaints == []


def test_whoever_only_reads_is_told_of_the_restart(tab: Tab, served: Gateway) -> None:
    tab.open(served.url)
    tab.box.fill("still writing")
    tab.page.context.clear_cookies()
    _look_now(tab)
    tab.notice("The server was restarted, or the login is over.").wait_for()
    playwright.expect(tab.box).to_have_value("still writing")
    tab.page.get_by_role("button", name="Log in again").click()
    tab.page.wait_for_url("**/login")


def test_two_tabs_destroy_nothing_of_each_other(
    browser: "playwright.Browser", served: Gateway
) -> None:
    with opened_tab(browser) as tab:
        tab.open(served.url)
        tab.ask("zero")
        tab.said("You said: zero").wait_for()
        tab.answered()
        beside = another_tab(tab.page.context)
        beside.page.goto(served.url)
        beside.ready()
        playwright.expect(beside.answers).to_have_count(1)
        tab.ask("one " * 20)
        beside.send("two " * 20)
        for each in (tab, beside):
            playwright.expect(each.answers).to_have_count(3)
            playwright.expect(each.page.locator("#messages [data-state=running]")).to_have_count(0)
        order = [each.page.locator("#messages .message").evaluate_all(
            "all => all.map((one) => one.dataset.id)") for each in (tab, beside)]  # fmt: skip
        assert order[0] == order[1]
        texts = tab.page.locator("#messages .body").all_inner_texts()
        assert [text[:9] for text in texts[2::2]] in (
            ["one one o", "two two t"],
            ["two two t", "one one o"],
        )
        assert all(
            answer.startswith(f"You said: {question[:9]}")
            for question, answer in zip(texts[::2], texts[1::2], strict=True)
        )
        beside.fresh()
        beside.ask("three")
        beside.answered()
        playwright.expect(tab.conversations).to_have_count(2)
        beside.page.get_by_role("button", name="Delete: three").click()
        playwright.expect(tab.conversations).to_have_count(1)
        assert tab.answers.count() == 3
        tab.questions.first.get_by_role("button", name="Edit").click()
        tab.page.get_by_label("Edited question").fill("half written")
        beside.ask("four")
        playwright.expect(tab.answers).to_have_count(4)
        playwright.expect(tab.page.get_by_label("Edited question")).to_have_value("half written")
        playwright.expect(tab.page.get_by_label("Edited question")).to_be_focused()
        beside.answered()
        tab.ask(_LONG)
        until(lambda: _running(served) == 1)
        beside.page.get_by_role("button", name="Delete: zero").click()
        until(lambda: _running(served) == 0)
        playwright.expect(tab.page.locator("#messages .message")).to_have_count(0)
        assert tab.page.evaluate(_RECORDS) == [0, 0], "nothing is left of it"
        assert tab.complaints + beside.complaints == []


def test_a_browser_that_keeps_nothing_is_told_so_and_works(
    browser: "playwright.Browser", served: Gateway
) -> None:
    blocked = """for (const name of ["indexedDB", "localStorage", "sessionStorage"]) {
        Object.defineProperty(window, name, {get() { throw new DOMException("blocked", "SecurityError"); }});
    }"""
    with opened_tab(browser) as tab:
        tab.page.add_init_script(blocked)
        tab.open(served.url)
        tab.notice("keeps nothing").wait_for()
        tab.ask("still here?")
        tab.said("You said: still here?").wait_for()
        tab.answered()
        playwright.expect(tab.conversations).to_have_count(1)
        assert tab.complaints == []


def test_conversations_are_named_found_again_and_deleted_with_a_way_back(
    tab: Tab, served: Gateway, picture: Path
) -> None:
    tab.open(served.url)
    tab.ask("what is in this photograph of mine, the one that I took by the lake?", picture)
    tab.answered()
    title = tab.page.get_by_label("Title of this conversation")
    playwright.expect(title).to_have_value("what is in this photograph of mine, the one…")
    assert "photograph" in tab.page.title()
    title.fill("The lake")
    title.press("Enter")
    playwright.expect(tab.conversations).to_have_text(["The lake"])
    tab.fresh()
    tab.ask("hello")
    tab.answered()
    playwright.expect(tab.conversations).to_have_text(["hello", "The lake"])
    tab.conversations.last.click()
    playwright.expect(tab.answers).to_contain_text("Picture 64x48")
    tab.page.locator("#menu summary").click()
    tab.page.get_by_role("button", name="Delete", exact=True).click()
    playwright.expect(tab.conversations).to_have_text(["hello"])
    playwright.expect(tab.answers).to_contain_text("You said: hello")
    tab.notice("Deleted: The lake").get_by_role("button", name="Undo").click()
    playwright.expect(tab.answers).to_contain_text("Picture 64x48")
    assert tab.questions.locator("img").count() == 1
    playwright.expect(tab.conversations).to_have_text(["hello", "The lake"])


def test_a_conversation_is_exported_and_brought_in_again(
    tab: Tab, served: Gateway, picture: Path, tmp_path: Path
) -> None:
    def exported(name: str) -> Path:
        tab.page.locator("#menu summary").click()
        with tab.page.expect_download() as download:
            tab.page.get_by_role("button", name=name).click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return path

    tab.open(served.url)
    tab.ask("**what** is it?", picture)
    tab.answered()
    text = exported("Export as Markdown").read_text()
    assert text.startswith(
        "# what** is it?\n\n## You\n\n*Picture: red.png*\n\n**what** is it?\n\n## echo\n\nYou said"
    )
    whole = exported("Export as JSON")
    told = json.loads(whole.read_text())
    assert [message["role"] for message in told["messages"]] == ["user", "assistant"]
    tab.page.set_input_files("#import-file", str(whole))
    playwright.expect(tab.conversations).to_have_count(2)
    playwright.expect(tab.answers).to_contain_text("Picture 64x48 of 255,0,0.")
    tab.ask("and now?")
    tab.said("You said: and now?").wait_for()
    tab.answered()
    damaged = dict.fromkeys(told["pictures"], "data:image/png;base64,A")
    for number, wrong in enumerate(
        (
            {"kind": "other"},
            {**told, "messages": [{"role": "system"}]},
            {**told, "pictures": {}},
            {**told, "pictures": damaged},
        )
    ):
        path = tmp_path / f"wrong{number}.json"
        path.write_text(json.dumps(wrong))
        tab.page.set_input_files("#import-file", str(path))
        tab.notice("not a conversation that was exported here").wait_for()
        tab.page.locator("#notices .notice.warn").get_by_role("button", name="Close").click()
    assert tab.conversations.count() == 2
    unasked = tmp_path / "unasked.json"
    answer = {"role": "assistant", "text": "unasked", "state": "running"}
    unasked.write_text(json.dumps({**told, "messages": [answer]}))
    tab.page.set_input_files("#import-file", str(unasked))
    playwright.expect(tab.answers.last).to_contain_text("This answer broke off")
    tab.button("Continue").wait_for()
    assert tab.page.get_by_role("button", name="New answer").count() == 0, "nothing was asked"


def test_a_question_is_edited_an_answer_drawn_anew_and_both_taken_back(
    tab: Tab, served: Gateway, picture: Path
) -> None:
    tab.open(served.url)
    for question, pictures in (("first", [picture]), ("second", [])):
        tab.ask(question, *pictures)
        tab.said(f"You said: {question}").wait_for()
        tab.answered()
    before = tab.answers.last.locator(".body").inner_text()
    tab.button("New answer").click()
    playwright.expect(tab.answers.last.locator(".body")).not_to_have_text(before)
    playwright.expect(tab.answers.last).to_contain_text("You said: second")
    tab.answered()
    tab.questions.first.get_by_role("button", name="Edit").click()
    tab.page.get_by_label("Edited question").fill("first, but better")
    tab.page.get_by_role("button", name="Send again").click()
    tab.said("You said: first, but better Picture 64x48").wait_for()
    tab.answered()
    assert (tab.questions.count(), tab.answers.count()) == (1, 1)
    assert tab.thumbnails.count() == 0, "what was sent is no longer in the box"
    tab.notice("Later messages were replaced.").get_by_role("button", name="Undo").click()
    playwright.expect(tab.questions).to_have_count(2)
    playwright.expect(tab.answers.last).to_contain_text("You said: second")
    tab.questions.first.get_by_role("button", name="Edit").click()
    tab.page.get_by_label("Edited question").press("Escape")
    playwright.expect(tab.questions.first).to_contain_text("first")
    tab.button("New answer").click()
    tab.notice("Later messages were replaced.").wait_for()
    tab.answered()
    tab.ask("third")
    playwright.expect(tab.notice("Later messages were replaced.")).to_have_count(0)
    tab.answered()


def test_settings_and_the_system_prompt_reach_the_model(tab: Tab, served: Gateway) -> None:
    tab.open(served.url)
    bodies = _note_bodies(tab)
    tab.ask("a")
    tab.answered()
    tab.page.get_by_role("button", name="Settings").click()
    for label, value in (("System prompt", "Be brief."), ("Temperature", "0"), ("Top p", "0.5"),
                         ("Maximum answer length", "6"), ("Seed", "7")):  # fmt: skip
        field = tab.page.get_by_label(label)
        field.fill(value)
        field.press("Tab")
    tab.page.get_by_role("button", name="Done").click()
    tab.page.get_by_label("Model", exact=True).select_option(_HOSTILE_NAME)
    tab.ask("b " * 20)
    tab.said("You said: b b b b").wait_for()
    tab.answered()
    playwright.expect(tab.answers.last).to_contain_text("Cut off at the maximum length.")
    tab.button("Continue").wait_for()
    first, second = bodies
    assert (first["temperature"], first["top_p"], first["max_tokens"]) == (0.2, 0.7, 512)
    assert "seed" not in first
    told = {name: second[name] for name in ("temperature", "top_p", "max_tokens", "seed", "model")}
    assert told == {
        "temperature": 0,
        "top_p": 0.5,
        "max_tokens": 6,
        "seed": 7,
        "model": _HOSTILE_NAME,
    }
    assert second["messages"][0] == {"role": "system", "content": "Be brief."}
    assert tab.page.title().endswith("llava-pack"), "a model's name is text"
    playwright.expect(tab.answers.last.locator(".who")).to_have_text(_HOSTILE_NAME)
    tab.page.reload()
    tab.ready()
    tab.page.get_by_role("button", name="Settings").click()
    playwright.expect(tab.page.get_by_label("Seed")).to_have_value("7")
    tab.page.get_by_role("button", name="Restore the defaults").click()
    playwright.expect(tab.page.get_by_label("Seed")).to_have_value("")
    kept = {"Temperature": "0.2", "Top p": "0.7", "Maximum answer length": "512", "Seed": ""}
    for label, value in zip(kept, ("2.01", "0.01", "1.5", "-1"), strict=True):
        tab.page.get_by_label(label).fill(value)
        tab.page.get_by_label(label).press("Tab")
    tab.page.reload()
    tab.ready()
    tab.page.get_by_role("button", name="Settings").click()
    for label, value in kept.items():
        playwright.expect(tab.page.get_by_label(label)).to_have_value(value)


def test_the_panel_tells_how_a_program_asks(tab: Tab, served: Gateway) -> None:
    tab.open(served.url)
    tab.page.get_by_role("button", name="API", exact=True).click()
    panel = tab.page.get_by_role("dialog")
    playwright.expect(panel).to_contain_text(f"{served.url}/v1")
    playwright.expect(panel).to_contain_text("llava-pack keys add")
    playwright.expect(panel).to_contain_text('"model":"echo"')
    panel.click(position={"x": 4, "y": 4})
    playwright.expect(panel).to_be_visible()
    tab.page.mouse.click(2, 2)
    playwright.expect(panel).to_be_hidden()


_REFUSED: dict[str, tuple[Callable[[Tab, Path], None], str]] = {
    "too long": (lambda tab, _: tab.send("word " * 5000), "longer than the model's context"),
    "no picture": (lambda tab, path: tab.send("what?", path), "not a picture, or a damaged one"),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_a_question_that_cannot_be_answered_comes_back_with_the_reason(
    tab: Tab, served: Gateway, tmp_path: Path, name: str
) -> None:
    false = tmp_path / "false.png"
    false.write_bytes(b"this is not a picture")
    tab.open(served.url)
    tab.ask("first")
    tab.said("You said: first").wait_for()
    tab.answered()
    act, reason = _REFUSED[name]
    act(tab, false)
    tab.notice(reason).wait_for()
    assert tab.box.input_value().strip() != ""
    assert tab.answers.count() == 1, "what was said before is still there"
    if tab.thumbnails.count():
        tab.page.get_by_role("button", name="Remove false.png").click()
    tab.ask("and now?")
    tab.said("You said: and now?").wait_for()


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


def test_another_site_cannot_use_the_session(
    browser: "playwright.Browser", served: Gateway, other_site: OtherSite
) -> None:
    """A page on another port of this host, which the browser counts as the same site."""
    with opened_tab(browser) as tab:
        tab.open(served.url)
        tab.page.goto(f"{other_site.url}/page")
        script = """async (url) => {
            const body = JSON.stringify({model: "echo", messages: [{role: "user", content: "hi"}]});
            const tries = [
                fetch(url + "/v1/models", {credentials: "include"}),
                fetch(url + "/page/facts", {credentials: "include", mode: "no-cors"}),
                fetch(url + "/v1/chat/completions", {method: "POST", credentials: "include", body,
                    mode: "no-cors", headers: {"Content-Type": "text/plain"}}),
            ];
            return (await Promise.allSettled(tries)).map((t) => t.value?.type ?? "refused");
        }"""
        with served.client() as http:
            before = http.get("/livez").json()["models"]["echo"]["steps"]
            assert set(tab.page.evaluate(script, served.url)) <= {"refused", "opaque"}
            assert http.get("/livez").json()["models"]["echo"]["steps"] == before


def test_without_the_token_there_is_only_the_login_form(
    browser: "playwright.Browser", served: Gateway
) -> None:
    with opened_tab(browser) as tab:
        tab.page.goto(served.url)
        tab.page.fill("#token", TOKEN)
        tab.page.get_by_role("button").click()
        tab.ready()
        assert TOKEN not in tab.page.url
        cookies = tab.page.context.cookies()
        assert {(c["httpOnly"], c["sameSite"]) for c in cookies} == {(True, "Strict")}
        assert not any(TOKEN in cookie["value"] for cookie in cookies)


def test_an_address_with_a_token_is_cleaned_for_whoever_is_logged_in_already(
    tab: Tab, served: Gateway
) -> None:
    tab.open(served.url)
    tab.page.goto("about:blank")
    tab.open(served.url)
    assert tab.page.url == f"{served.url}/"
    tab.page.go_back()
    assert TOKEN not in tab.page.url
