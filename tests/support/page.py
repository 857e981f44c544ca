"""A real Chromium on the page: tabs that note what they asked for and complained about."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from tests.support.gateway import TOKEN

PATIENCE_MS = 200_000
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_QUIET = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Tab:
    """A page, and everything that it asked for or complained about."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """What the console says, but for requests that failed as they had to."""

    @property
    def hosts(self) -> set[str]:
        """Return the hosts that something was asked of."""
        return {urlsplit(url).netloc for url in self.requests} - {""}

    @property
    def answers(self) -> Locator:
        """Return the model's messages."""
        return self.page.locator("#messages .assistant")

    @property
    def questions(self) -> Locator:
        """Return the person's messages."""
        return self.page.locator("#messages .user")

    @property
    def box(self) -> Locator:
        """Return where a question is typed."""
        return self.page.locator("#box")

    @property
    def thumbnails(self) -> Locator:
        """Return the pictures that go with the next question."""
        return self.page.locator("#thumbnails .thumbnail")

    @property
    def conversations(self) -> Locator:
        """Return the list of conversations."""
        return self.page.locator("#list .pick")

    def button(self, name: str) -> Locator:
        """Return the last button of a name that a screen reader tells."""
        return self.page.get_by_role("button", name=name, exact=True).last

    def notice(self, text: str) -> Locator:
        """Return what is said above the box."""
        return self.page.locator("#notices .notice", has_text=text)

    def open(self, url: str, token: str = TOKEN) -> None:
        """Open the page by the printed address, until it is ready for a question."""
        self.page.goto(f"{url}/#token={token}")
        self.ready()

    def ready(self) -> None:
        """Wait until the page takes a question."""
        expect(self.page.locator("#status")).not_to_be_empty()

    def add(self, *pictures: Path) -> None:
        """Choose pictures."""
        before = self.thumbnails.count()
        self.page.set_input_files("#files", [str(path) for path in pictures])
        expect(self.thumbnails).to_have_count(before + len(pictures))

    def send(self, question: str, *pictures: Path) -> None:
        """Add pictures, type a question and send it."""
        if pictures:
            self.add(*pictures)
        self.box.fill(question)
        self.page.locator("#send").click()

    def ask(self, question: str, *pictures: Path) -> None:
        """Send a question, and wait until the page has it."""
        before = self.questions.count()
        self.send(question, *pictures)
        expect(self.questions).to_have_count(before + 1)

    def answered(self) -> None:
        """Wait until the last answer is at its end, whichever that is."""
        expect(self.answers.last).not_to_have_attribute("data-state", "running")
        expect(self.page.locator("#send")).to_be_visible()

    def state(self) -> str:
        """Return how the last answer ended."""
        return self.answers.last.get_attribute("data-state") or ""

    def fresh(self) -> None:
        """Begin a conversation in which nothing was said."""
        self.page.locator("#new").click()
        expect(self.page.locator("#messages .message")).to_have_count(0)

    def said(self, text: str) -> Locator:
        """Return the model's messages with a text."""
        return self.answers.get_by_text(text)


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """Start the machine's Chromium, with more arguments; skip where there is none."""
    if _CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=_CHROMIUM, args=[*_QUIET, *arguments], timeout=PATIENCE_MS
        )
        yield browser
        browser.close()


@contextmanager
def opened_tab(browser: Browser, **settings: Any) -> Iterator[Tab]:
    """Open a tab with nothing in it, in a context of its own; English where nothing else is set."""
    context = browser.new_context(**{"locale": "en-US", **settings})
    yield another_tab(context)
    context.close()


def another_tab(context: BrowserContext) -> Tab:
    """Open a tab beside those of a context."""
    tab = Tab(context.new_page())
    tab.page.set_default_timeout(PATIENCE_MS)
    tab.page.on("request", lambda request: tab.requests.append(request.url))
    tab.page.on("console", lambda said: _complain(tab, said.type, said.text))
    tab.page.on("pageerror", lambda error: _complain(tab, "error", str(error)))
    return tab


def _complain(tab: Tab, kind: str, text: str) -> None:
    # The browser writes down each request that failed; tests that provoke it look at the page.
    if kind in {"error", "warning"} and "Failed to load resource" not in text:
        tab.complaints.append(f"{kind}: {text}")
