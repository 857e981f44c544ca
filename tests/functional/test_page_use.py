"""The page as people use it: paste, drag, examples, parameters, keyboard, phone, language, light."""

import base64
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.support.gateway import Gateway, gateway

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from tests.support.page import Tab, chromium, opened_tab  # noqa: E402 - needs playwright

_PHONE = {
    "viewport": {"width": 390, "height": 844},
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with gateway(tmp_path_factory.mktemp("run"), "--web", engine="--step-s 0.01") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with chromium() as running:
        yield running


@pytest.fixture
def tab(browser: "playwright.Browser") -> Iterator[Tab]:
    with opened_tab(browser, permissions=["clipboard-read", "clipboard-write"]) as opened:
        yield opened
        assert opened.complaints == []


def _png(colour: str, size: tuple[int, int]) -> str:
    data = BytesIO()
    Image.new("RGB", size, colour).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def test_a_picture_is_pasted_and_another_dropped(tab: Tab, served: Gateway) -> None:
    tab.open(served)
    tab.page.evaluate(
        """async (png) => {
            const blob = await (await fetch("data:image/png;base64," + png)).blob();
            await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
        }""",
        _png("red", (40, 30)),
    )
    tab.box.focus()
    tab.page.keyboard.press("Control+V")
    playwright.expect(tab.thumbnails).to_have_count(1)
    dragged = tab.page.evaluate_handle(
        """async (png) => {
            const blob = await (await fetch("data:image/png;base64," + png)).blob();
            const dragged = new DataTransfer();
            dragged.items.add(new File([blob], "blue.png", {type: "image/png"}));
            return dragged;
        }""",
        _png("blue", (20, 10)),
    )
    tab.page.dispatch_event("#ask .full-container", "drop", {"dataTransfer": dragged})
    playwright.expect(tab.thumbnails).to_have_count(2)
    tab.ask("two?")
    tab.said("Picture 40x30 of 255,0,0. Picture 20x10 of 0,0,255.").wait_for()
    tab.answered()


def test_a_picture_over_the_limits_is_made_smaller_in_the_browser(
    tab: Tab, served: Gateway, tmp_path: Path
) -> None:
    """Chosen, pasted and dropped; one within the limits goes as it is, to the bit."""
    tab.open(served)
    chosen = tmp_path / "panorama.png"
    chosen.write_bytes(base64.b64decode(_png("red", (12_000, 300))))
    tab.page.set_input_files("#ask input[type=file]", str(chosen))
    playwright.expect(tab.thumbnails).to_have_count(1)
    tab.page.evaluate(
        """async (png) => {
            const blob = await (await fetch("data:image/png;base64," + png)).blob();
            await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
        }""",
        _png("lime", (30, 11_000)),
    )
    tab.box.focus()
    tab.page.keyboard.press("Control+V")
    playwright.expect(tab.thumbnails).to_have_count(2)
    dragged = tab.page.evaluate_handle(
        """async (pngs) => {
            const dragged = new DataTransfer();
            for (const png of pngs) {
                const blob = await (await fetch("data:image/png;base64," + png)).blob();
                dragged.items.add(new File([blob], "blue.png", {type: "image/png"}));
            }
            return dragged;
        }""",
        [_png("blue", (10_240, 5)), _png("blue", (20, 10))],
    )
    tab.page.dispatch_event("#ask .full-container", "drop", {"dataTransfer": dragged})
    playwright.expect(tab.thumbnails).to_have_count(4)
    tab.ask("four?")
    tab.said(
        "Picture 4096x102 of 255,0,0. Picture 11x4096 of 0,255,0. "
        "Picture 4096x2 of 0,0,255. Picture 20x10 of 0,0,255."
    ).wait_for()
    tab.answered()


def test_pictures_that_a_browser_may_not_show_are_answered(
    tab: Tab, served: Gateway, tmp_path: Path
) -> None:
    tab.open(served)
    files = [tmp_path / f"a.{suffix}" for suffix in ("tif", "bmp", "avif")]
    for number, file in enumerate(files):
        Image.new("RGB", (20 + number, 10), (255, 0, 0)).save(file)
    tab.ask("three?", *files)
    tab.said("Picture 20x10 of 255,0,0. Picture 21x10 of 255,0,0. Picture 22x10").wait_for()
    tab.answered()


def test_a_picture_of_one_colour_is_told_beside_the_answer(
    tab: Tab, served: Gateway, tmp_path: Path
) -> None:
    tab.open(served)
    blank = tmp_path / "blank.png"
    blank.write_bytes(base64.b64decode(_png("white", (40, 30))))
    tab.ask("what is it?", blank)
    told = tab.page.locator("#speed").get_by_text("Picture 1 has only one colour, #ffffff")
    told.wait_for()
    tab.answered()
    tab.clear()


def test_long_text_that_is_pasted_stays_text(tab: Tab, served: Gateway) -> None:
    tab.open(served)
    text = "pasted " * 300
    tab.page.evaluate("(text) => navigator.clipboard.writeText(text)", text)
    tab.box.focus()
    tab.page.keyboard.press("Control+V")
    playwright.expect(tab.box).to_have_value(text)
    assert tab.thumbnails.count() == 0


def test_an_example_fills_the_box(tab: Tab, served: Gateway) -> None:
    tab.open(served)
    tab.page.locator("#chat .example img").nth(2).wait_for()
    sources = tab.page.locator("#chat .example img").evaluate_all("all => all.map((i) => i.src)")
    assert [source.split("/")[-2] for source in sources] == ["examples"] * 3, "not copies that age"
    tab.page.get_by_role("button", name="How many things are there?").click()
    playwright.expect(tab.box).to_have_value("How many things are there?")
    playwright.expect(tab.thumbnails).to_have_count(1)
    tab.page.locator("#ask .submit-button").click()
    tab.said("Picture 336x336").wait_for()
    tab.answered()


def test_parameters_reach_the_model(tab: Tab, served: Gateway) -> None:
    tab.open(served)
    tab.ask("a " * 40)
    tab.said("Lucky number").wait_for()  # said where it draws
    tab.answered()
    tab.page.get_by_text("Parameters").click()
    chosen = {"Temperature": "0", "Maximum answer length": "16"}
    fields = {label: tab.page.get_by_label(f"number input for {label}") for label in chosen}
    while {label: field.input_value() for label, field in fields.items()} != chosen:
        for label, field in fields.items():  # a panel that still opens sets its first values again
            field.fill(chosen[label])
            field.press("Tab")
        tab.page.wait_for_timeout(500)
    tab.ask("b " * 40)
    tab.said("You said: b").wait_for()
    tab.answered()
    assert len(tab.answers.last.inner_text().split()) == 16
    tab.ask("c")
    tab.said("You said: c").wait_for()
    tab.answered()
    assert tab.answers.last.inner_text() == "You said: c"


def test_the_keyboard_is_enough(tab: Tab, served: Gateway) -> None:
    """The box has the focus when the page opens; Enter sends; the buttons are in reach of Tab."""
    tab.open(served)
    playwright.expect(tab.box).to_be_focused()
    tab.page.keyboard.type("first line")
    tab.page.keyboard.press("Shift+Enter")
    tab.page.keyboard.type("second line")
    tab.page.keyboard.press("Enter")
    tab.said("first line").wait_for()
    tab.answered()
    tab.button("Retry").wait_for()
    tab.button("Copy message").nth(1).wait_for()
    names = set()
    for _ in range(20):
        tab.page.keyboard.press("Tab")
        names.add(tab.page.evaluate("document.activeElement.ariaLabel"))
    assert {"Retry", "Undo", "Clear", "Copy message", "Upload a file"} <= names
    tab.button("Clear").focus()
    tab.page.keyboard.press("Enter")
    playwright.expect(tab.answers).to_have_count(0)


def test_a_phone_shows_all_of_it(browser: "playwright.Browser", served: Gateway) -> None:
    with opened_tab(browser, **_PHONE) as tab:
        tab.open(served)
        fits = "document.documentElement.scrollWidth === 390 && innerWidth === 390"
        tab.page.wait_for_function(fits)
        tab.box.tap()
        tab.box.fill("from a phone")
        send = tab.page.locator("#ask .submit-button")
        assert send.bounding_box()["y"] < 844
        send.tap()
        tab.said("You said: from a phone").wait_for()
        tab.answered()
        tab.page.wait_for_function(fits)
        assert tab.complaints == []


@pytest.mark.parametrize(
    ("locale", "ask", "status", "example", "tag"),
    [
        ("zh-CN", "就图片提问", "0 个请求运行中", "图片里有什么", "zh-CN"),
        ("zh-TW", "就图片提问", "0 个请求运行中", "图片里有什么", "zh-TW"),
        ("de-DE", "Ask about a picture", "0 running", "What is in the picture?", "de-DE"),
    ],
)
def test_the_browser_decides_the_language(
    browser: "playwright.Browser",
    served: Gateway,
    locale: str,
    ask: str,
    status: str,
    example: str,
    tag: str,
) -> None:
    with opened_tab(browser, locale=locale) as tab:
        tab.open(served)
        playwright.expect(tab.box).to_have_attribute("placeholder", re.compile(ask))
        playwright.expect(tab.page.locator("#status")).to_contain_text(status)
        tab.page.get_by_role("button", name=example).wait_for()
        assert tab.page.evaluate("document.documentElement.lang") == tag
        assert tab.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_browser_and_can_be_switched(
    browser: "playwright.Browser", served: Gateway, scheme: str
) -> None:
    brightness = """() => {
        const colour = getComputedStyle(document.querySelector("gradio-app")).backgroundColor;
        return colour.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0);
    }"""
    with opened_tab(browser, color_scheme=scheme) as tab:
        tab.open(served)
        dark = f"({brightness})() < 100"
        tab.page.wait_for_function(dark if scheme == "dark" else f"!({dark})")
        tab.page.get_by_role("button", name="Light / dark").click()
        tab.page.wait_for_function(f"!({dark})" if scheme == "dark" else dark)
        assert tab.complaints == []


def test_a_picture_stays_with_its_server(tab: Tab, served: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "green.png"
    Image.new("RGB", (9, 9), "#00ff00").save(path)
    tab.open(served)
    tab.ask("colour?", path)
    tab.said("of 0,255,0.").wait_for()
    tab.answered()
    assert tab.hosts - {"", served.url.removeprefix("http://")} == set()
    assert tab.button("Share").count() == 0 or not tab.button("Share").is_visible()
