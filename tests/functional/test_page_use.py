"""The page as people use it: pictures, keyboard, phone, language, light, a slow line; and hostile text."""

import base64
import json
import re
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.gateway import TOKEN, Gateway, gateway
from tests.support.hostile_answers import ACTIVE, FOREIGN, HOSTILE, SLOW

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from tests.support.page import Tab, chromium, opened_tab  # noqa: E402 - needs playwright

_DESK: dict[str, Any] = {"viewport": {"width": 1100, "height": 800}}
_PHONE: dict[str, Any] = {
    "viewport": {"width": 320, "height": 640},
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}
_SLOW_LINE = {
    "offline": False,
    "latency": 80,
    "downloadThroughput": 125_000,
    "uploadThroughput": 125_000,
}
_MOST_BYTES, _MOST_S = 1_000_000, 8
_ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("run"), "--web", engine="--context 4096") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with chromium() as running:
        yield running


@pytest.fixture
def tab(browser: "playwright.Browser", served: Gateway) -> Iterator[Tab]:
    with opened_tab(browser, permissions=["clipboard-read", "clipboard-write"]) as opened:
        opened.open(served.url)
        yield opened
        assert opened.complaints == []
        assert opened.hosts == {served.url.removeprefix("http://")}


def _png(colour: str, size: tuple[int, int]) -> str:
    data = BytesIO()
    Image.new("RGB", size, colour).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


_FILE = """(png, name) => new File([Uint8Array.from(atob(png), (c) => c.charCodeAt(0))], name, {type: "image/png"})"""
_COPY = f"async ([png]) => navigator.clipboard.write([new ClipboardItem({{'image/png': ({_FILE})(png, 'a')}})])"
_DRAG = f"""(pngs) => {{
    const dragged = new DataTransfer();
    pngs.forEach((png, number) => dragged.items.add(({_FILE})(png, `dropped-${{number}}.png`)));
    return dragged;
}}"""


def test_pictures_come_in_however_and_those_over_the_limits_are_made_smaller(
    tab: Tab, tmp_path: Path
) -> None:
    """Chosen, pasted and dropped; one within the limits goes as it is, to the bit."""
    chosen = tmp_path / "panorama.png"
    chosen.write_bytes(base64.b64decode(_png("red", (12_000, 300))))
    tab.add(chosen)
    playwright.expect(tab.thumbnails.first).to_contain_text("made smaller from 12000")
    tab.page.evaluate(_COPY, [_png("lime", (30, 11_000))])
    tab.box.focus()
    tab.page.keyboard.press("Control+V")
    playwright.expect(tab.thumbnails).to_have_count(2)
    dragged = tab.page.evaluate_handle(_DRAG, [_png("blue", (10_240, 5)), _png("blue", (20, 10))])
    tab.page.dispatch_event("#talk", "dragover", {"dataTransfer": dragged})
    playwright.expect(tab.page.get_by_text("Drop pictures here")).to_be_visible()
    tab.page.dispatch_event("#talk", "drop", {"dataTransfer": dragged})
    playwright.expect(tab.page.get_by_text("Drop pictures here")).to_be_hidden()
    playwright.expect(tab.thumbnails).to_have_count(4)
    with tab.page.expect_request("**/v1/chat/completions") as asked:
        tab.ask("four?")
    tab.said(
        "Picture 4096x102 of 255,0,0. Picture 11x4096 of 0,255,0. "
        "Picture 4096x2 of 0,0,255. Picture 20x10 of 0,0,255."
    ).wait_for()
    sent = asked.value.post_data_json["messages"][-1]["content"][3]["image_url"]["url"]
    assert sent == f"data:image/png;base64,{_png('blue', (20, 10))}"


def test_what_the_server_does_not_read_is_converted_and_what_the_browser_does_not_is_sent(
    tab: Tab, tmp_path: Path
) -> None:
    drawing = tmp_path / "drawing.svg"
    drawing.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="30" height="20"><image href="{FOREIGN}/a.png"/>'
        '<script>document.title="owned"</script><rect width="30" height="20" fill="#0000ff"/></svg>'
    )
    scan, odd = tmp_path / "scan.tif", tmp_path / "note.txt"
    Image.new("RGB", (20, 10), (255, 0, 0)).save(scan)
    odd.write_text("no picture")
    turned = tmp_path / "turned.jpg"
    photo, exif = Image.new("RGB", (400, 10_400), (0, 200, 0)), Image.Exif()
    exif[_ORIENTATION] = 6
    photo.save(turned, exif=exif)
    tab.add(drawing, scan, turned)
    playwright.expect(tab.thumbnails.nth(0)).to_contain_text("converted from image/svg+xml")
    playwright.expect(tab.thumbnails.nth(1).get_by_text("TIF", exact=True)).to_be_visible()
    tab.page.set_input_files("#files", str(odd))
    tab.notice("note.txt is not a picture").wait_for()
    tab.ask("three?")
    tab.said("Picture 30x20 of 0,0,255. Picture 20x10 of 255,0,0. Picture 4096x158").wait_for()
    tab.page.reload()
    tab.ready()
    playwright.expect(tab.questions.locator(".thumbnail")).to_have_count(3)


def test_more_pictures_than_the_server_takes_are_said_before_they_are_sent(
    tab: Tab, tmp_path: Path
) -> None:
    paths = []
    for number in range(17):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (4, 4), "red").save(paths[-1])
    tab.page.set_input_files("#files", paths)
    tab.notice("At most 16 pictures").wait_for()
    playwright.expect(tab.thumbnails).to_have_count(16)
    tab.page.get_by_role("button", name="Remove 3.png", exact=True).click()
    playwright.expect(tab.thumbnails).to_have_count(15)
    tab.page.reload()
    tab.ready()
    playwright.expect(tab.thumbnails).to_have_count(15)


def test_text_that_is_pasted_stays_text_and_an_example_fills_the_box(tab: Tab) -> None:
    text = "pasted " * 300
    tab.page.evaluate("(text) => navigator.clipboard.writeText(text)", text)
    tab.box.focus()
    tab.page.keyboard.press("Control+V")
    playwright.expect(tab.box).to_have_value(text)
    tab.page.get_by_role("button", name="How many things are there?").click()
    playwright.expect(tab.box).to_have_value("How many things are there?")
    playwright.expect(tab.thumbnails).to_have_count(1)
    tab.page.locator("#send").click()
    tab.said("Picture 336x336").wait_for()


def test_what_is_copied_is_what_was_written(tab: Tab) -> None:
    written = "a[0](x) <b> **http://a.example**"
    tab.ask(f"x\n\n```\n{written}\n```")
    tab.answered()
    read = "navigator.clipboard.readText()"
    tab.answers.last.get_by_role("button", name="Copy code").click()
    playwright.expect(tab.button("Copied")).to_be_visible()
    assert tab.page.evaluate(read).startswith(written)
    tab.answers.last.get_by_role("button", name="Copy", exact=True).click()
    playwright.expect(tab.answers.last.get_by_role("button", name="Copied")).to_have_count(2)
    assert tab.page.evaluate(read).startswith(f"You said: x\n\n```\n{written}\n```")


def test_the_keyboard_is_enough(tab: Tab) -> None:
    playwright.expect(tab.box).to_be_focused()
    tab.page.keyboard.type("first line")
    tab.page.keyboard.press("Shift+Enter")
    tab.page.keyboard.type("second line")
    for writing in ({"isComposing": True}, {"keyCode": 229}):  # an input method takes the Enter
        tab.box.dispatch_event("keydown", {"key": "Enter", "cancelable": True, **writing})
    playwright.expect(tab.box).to_have_value("first line\nsecond line")
    tab.page.keyboard.press("Enter")
    tab.said("first line").wait_for()
    tab.answered()
    names = set()
    tab.page.evaluate("document.activeElement.blur()")
    for _ in range(30):
        tab.page.keyboard.press("Tab")
        names.add(
            tab.page.evaluate(
                "(document.activeElement.ariaLabel ?? document.activeElement.innerText).trim()"
            )
        )
    assert {"Skip to the question", "New conversation", "Settings", "API", "Copy", "Edit", "New answer",
            "Add pictures", "Send", "Delete: first line", "Title of this conversation"} <= names  # fmt: skip
    tab.page.get_by_role("button", name="Settings").press("Enter")
    playwright.expect(tab.page.get_by_role("dialog")).to_be_visible()
    tab.page.keyboard.press("Escape")
    playwright.expect(tab.page.get_by_role("button", name="Settings")).to_be_focused()


@pytest.mark.parametrize("locale", ["zh-CN", "zh-TW", "de-DE"])
def test_the_browser_decides_the_language(
    browser: "playwright.Browser", served: Gateway, locale: str
) -> None:
    chinese = locale.startswith("zh")
    with opened_tab(browser, locale=locale) as tab:
        tab.open(served.url)
        assert tab.page.evaluate("document.documentElement.lang") == (locale if chinese else "en")
        ask = "就图片提问" if chinese else "Ask about a picture"
        playwright.expect(tab.box).to_have_attribute("placeholder", re.compile(ask))
        playwright.expect(tab.page.locator("#status")).to_contain_text(
            "0 个运行中" if chinese else "0 running"
        )
        tab.page.get_by_role(
            "button", name="图片里有什么" if chinese else "What is in the picture?"
        ).wait_for()
        tab.send("word " * 5000)
        tab.notice(
            "对话超过模型的上下文长度" if chinese else "longer than the model's context"
        ).wait_for()
        assert tab.complaints == []


def test_every_row_of_words_has_both_languages(tab: Tab) -> None:
    script = """() => import("./page/words.js").then(({WORDS, ERRORS}) => {
        const slots = (text) => String(text.match(/\\{\\w+\\}/g)?.sort());
        return Object.entries({...WORDS, ...ERRORS}).filter(([, row]) =>
            row.length !== 2 || !row[0] || !row[1] || slots(row[0]) !== slots(row[1]));
    })"""
    assert tab.page.evaluate(script) == []


@pytest.mark.parametrize("device", [_DESK, _PHONE], ids=["desktop", "phone"])
def test_nobody_is_shut_out_in_light_and_dark_on_a_desk_and_a_phone(
    browser: "playwright.Browser", served: Gateway, device: dict[str, Any], tmp_path: Path
) -> None:
    """What axe finds: names, roles, contrast, order; on every state that the page has."""
    path = tmp_path / "red.png"
    Image.new("RGB", (9, 9), "red").save(path)
    axe = (files("axe_playwright_python") / "axe.min.js").read_text()
    with opened_tab(browser, color_scheme="light", reduced_motion="reduce", **device) as tab:
        tab.open(served.url)
        tab.page.evaluate(axe)
        _nothing_wrong(tab)
        tab.ask("# x\n\n> q\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```py\nx\n```\n", path)
        tab.answered()
        tab.add(path)
        tab.send("word " * 5000)
        tab.notice("longer than").wait_for()
        tab.questions.first.get_by_role("button", name="Edit").click()
        _nothing_wrong(tab)
        for name in ("Settings", "API"):
            tab.page.get_by_role("button", name=name, exact=True).click()
            _nothing_wrong(tab)
            tab.page.keyboard.press("Escape")
        if device is _PHONE:
            tab.page.get_by_role("button", name="Conversations").click()
            _nothing_wrong(
                tab, but={"landmark-one-main", "page-has-heading-one"}
            )  # it lies over them
        assert tab.complaints == []


def _nothing_wrong(tab: Tab, but: AbstractSet[str] = frozenset()) -> None:
    """Ask axe for everything in the light, and for the contrast once more in the dark."""
    for scheme, rules in (("light", "{}"), ("dark", "{runOnly: ['color-contrast']}")):
        tab.page.emulate_media(color_scheme=scheme)
        violations = tab.page.evaluate(f"axe.run(document, {rules}).then((all) => all.violations)")
        tab.page.emulate_media(color_scheme="light")
        told = [(each["id"], [node["html"] for node in each["nodes"]]) for each in violations]
        assert [each for each in told if each[0] not in but] == [], scheme


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_system_and_can_be_switched(
    browser: "playwright.Browser", served: Gateway, scheme: str
) -> None:
    bright = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + Number(b), 0)"
    with opened_tab(browser, color_scheme=scheme) as tab:
        tab.open(served.url)
        assert (tab.page.evaluate(bright) < 200) is (scheme == "dark")
        tab.page.get_by_role("button", name="Settings").click()
        tab.page.get_by_label("Colours").select_option("Light" if scheme == "dark" else "Dark")
        assert (tab.page.evaluate(bright) < 200) is (scheme == "light")
        tab.page.reload()
        tab.ready()
        assert (tab.page.evaluate(bright) < 200) is (scheme == "light"), "it is remembered"
        assert tab.complaints == []


def test_a_phone_shows_all_of_it_and_takes_pictures(
    browser: "playwright.Browser", served: Gateway, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", (900, 30), "red").save(path)
    with opened_tab(browser, **_PHONE) as tab:
        tab.open(served.url)
        with tab.page.expect_file_chooser() as chooser:
            tab.page.get_by_role("button", name="Take a picture").tap()
        assert chooser.value.element.get_attribute("capture") == "environment"
        chooser.value.set_files(str(path))
        playwright.expect(tab.thumbnails).to_have_count(1)
        tab.box.fill(
            "x\n\n"
            + "long" * 200
            + " مرحبا بالعالم 👩‍👩‍👧‍👦 "
            + "\n\n| a | b |\n|---|---|\n| "
            + "cell " * 30
            + "| 2 |\n\n```\n"
            + "code " * 60
            + "\n```\n"
        )
        send = tab.page.locator("#send")
        assert send.bounding_box()["y"] < 640
        send.tap()
        tab.said("Picture 900x30").wait_for()
        tab.answered()
        assert tab.page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [320, 320]
        outside = """() => [...document.querySelectorAll("#stage *")].filter((e) => {
            const box = e.getBoundingClientRect();
            return box.width > 1 && box.right > innerWidth + 1 && !e.closest("pre, .wide");
        }).map((e) => e.outerHTML.slice(0, 200))"""
        assert tab.page.evaluate(outside) == []
        tab.page.get_by_role("button", name="Conversations").tap()
        tab.page.get_by_role("button", name="New conversation").first.tap()
        playwright.expect(tab.page.locator("#messages .message")).to_have_count(0)
        assert tab.complaints == []


def test_a_text_from_right_to_left_is_set_so(tab: Tab) -> None:
    tab.ask("x\n\nمرحبا بالعالم")  # noqa: RUF001 - Arabic
    tab.answered()
    shown = tab.answers.last.locator(".body p").last
    assert shown.evaluate("(e) => getComputedStyle(e).unicodeBidi") == "plaintext"


def test_the_first_load_is_small_and_soon_usable_on_a_slow_line(
    browser: "playwright.Browser", served: Gateway
) -> None:
    """1 Mbit/s and 80 ms, from the printed address to a box that takes a question."""
    took_s = []
    while not took_s or (min(took_s) >= _MOST_S and len(took_s) < 3):  # this machine may be busy
        with opened_tab(browser) as tab:
            sizes: list[int] = []
            line = tab.page.context.new_cdp_session(tab.page)
            line.on("Network.loadingFinished", lambda done: sizes.append(done["encodedDataLength"]))  # noqa: B023
            line.send("Network.enable")
            line.send("Network.emulateNetworkConditions", _SLOW_LINE)
            began_s = time.monotonic()
            tab.open(served.url)
            took_s.append(time.monotonic() - began_s)
            tab.ask("hello")
            tab.said("You said: hello").wait_for()
            print(f"{sum(sizes)} bytes, {len(tab.requests)} requests, {took_s[-1]:.2f} s")
            assert sum(sizes) < _MOST_BYTES
            assert tab.complaints == []
    assert min(took_s) < _MOST_S


def test_the_page_works_below_a_path(browser: "playwright.Browser", served: Gateway) -> None:
    """As behind a hub's proxy, which takes the path away."""
    below = "/user/ann/proxy/7860"

    def without_path(route: "playwright.Route") -> None:
        answer = route.fetch(url=route.request.url.replace(below, "", 1), max_redirects=0)
        route.fulfill(response=answer)

    with opened_tab(browser) as tab:
        tab.page.context.request.post(
            f"{served.url}/login", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        tab.page.route(f"**{below}/**", without_path)
        tab.page.goto(f"{served.url}{below}/")
        tab.ready()
        tab.ask("hello")
        tab.said("You said: hello").wait_for()
        assert {url for url in tab.requests if f"{served.url}{below}/" not in url} == set()
        tab.page.get_by_role("button", name="API", exact=True).click()
        playwright.expect(tab.page.get_by_role("dialog")).to_contain_text(f"{below}/v1")
        assert tab.complaints == []


def test_what_makes_an_answer_readable_is_drawn(tab: Tab) -> None:
    tab.ask(
        "x\n\n# Head\n\n**bold** and *slanted* ~~gone~~ `span` snake_case_name 2*3*4\n\n- one\n  - inner\n- two\n\n"
        "1. first\n\n   more of it\n2. second\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> quoted\n> > deeper\n\n"
        "```python\nif a[0](x) < b:\n    pass\n```\n\n***\n\\*escaped\\*\n"
    )
    tab.answered()
    last = tab.answers.last.locator(".body")
    for part in (
        "h3",
        "strong",
        "em",
        "s",
        "ul ul li",
        "ol li p",
        "td",
        "blockquote blockquote",
        "pre code",
        "hr",
    ):
        assert last.locator(part).count() > 0, part
    text = last.inner_text()
    assert "snake_case_name 2*3*4" in text
    assert "*escaped*" in text
    assert last.locator("pre code").inner_text() == "if a[0](x) < b:\n    pass"
    assert last.locator("ol > li").count() == 2


def test_an_answer_loads_and_leads_nowhere(tab: Tab, served: Gateway) -> None:
    """Whatever a picture told the model to write is text; each is shown, looked at and clicked on."""
    tab.ask("go")
    tab.answered()
    tab.requests.clear()
    wrong = tab.page.evaluate(
        """([texts, active]) => import("./page/markdown.js").then(({markdown}) => {
            const body = document.querySelector(".assistant .body");
            return Object.entries(texts).filter(([name, [text, word]]) => {
                body.replaceChildren(markdown(text));
                const parts = [...body.querySelectorAll("*")].filter((part) => !part.closest(".code-head"));
                const alive = parts.filter((part) => active.includes(part.localName)
                    || part.getAttributeNames().some((each) => /^on|^style$|href|src|ping|background/i.test(each)));
                return alive.length || !body.innerText.includes(word);
            }).map(([name]) => name);
        })""",
        [
            {name: (text.replace("EVIL", FOREIGN), word) for name, (text, word) in HOSTILE.items()},
            ACTIVE,
        ],
    )
    assert wrong == []
    whole = "\n\n".join(text for text, _ in HOSTILE.values() if "```" not in text)
    tab.fresh()
    tab.ask(whole.replace("EVIL", FOREIGN)[:6000])
    tab.answered()
    pages = len(tab.page.context.pages)
    for each in tab.answers.last.get_by_text("leak").all()[:12]:
        each.click(modifiers=["Control"])
        each.click()
    assert len(tab.page.context.pages) == pages
    assert tab.page.url == f"{served.url}/"
    assert "owned" not in tab.page.title()


def test_text_that_is_made_to_take_long_does_not(tab: Tab) -> None:
    tooks = tab.page.evaluate(
        """(texts) => import("./page/markdown.js").then(({markdown}) => texts.map((text) => {
            let took = Infinity;  // at its best: tests beside it take the cores from it
            for (let tries = 0; tries < 5 && took > 1000; tries++) {
                const began = performance.now();
                markdown(text);
                took = Math.min(took, performance.now() - began);
            }
            return [text.slice(0, 20), took];
        }).filter(([, took]) => took > 1000))""",
        # Behind a letter, what would begin a block is part of a line.
        [before + text * times for text, times in SLOW for before in ("", "a")],
    )
    assert tooks == []


def test_no_text_becomes_markup_even_where_the_page_fails(tab: Tab) -> None:
    tries = """() => ["innerHTML", "outerHTML"].map((name) => {
        try { document.createElement("p")[name] = "<b>x</b>"; return "took it"; } catch (e) { return e.name; }
    })"""
    assert tab.page.evaluate(tries) == ["TypeError", "TypeError"]
    inline = """() => { const s = document.createElement("style"); s.textContent = "body{display:none}";
        document.head.append(s); return getComputedStyle(document.body).display; }"""
    assert tab.page.evaluate(inline) == "grid"
    said = [text for text in tab.complaints if "Security Policy" in text or "TrustedHTML" in text]
    assert said != []
    tab.complaints.clear()


def test_names_of_files_and_titles_are_text(tab: Tab, tmp_path: Path) -> None:
    name = "<img src=x onerror=document.title='owned'>.png"
    path = tmp_path / name
    Image.new("RGB", (5, 5), "red").save(path)
    tab.ask("", path)
    tab.answered()
    playwright.expect(tab.questions.locator(".name")).to_have_text(name)
    playwright.expect(tab.conversations).to_contain_text("<img src=x")
    title = tab.page.get_by_label("Title of this conversation")
    title.fill("</title><script>document.title='owned'</script>")
    title.press("Enter")
    playwright.expect(tab.conversations).to_contain_text("<script>")
    assert tab.page.title().startswith("</title><script>")
    with tab.page.expect_download() as download:
        tab.page.locator("#menu summary").click()
        tab.page.get_by_role("button", name="Export as JSON").click()
    told = json.loads(Path(download.value.path()).read_text())
    assert told["messages"][0]["pictures"][0]["name"] == name
