"""A real Chromium on the page: tabs that note what they asked for and complained about."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.support.gateway import TOKEN, Gateway

PATIENCE_MS = 200_000
# Counts how often the box was locked: between a click and its lock nothing else shows what comes.
_COUNT_LOCKS = """
    window.locks = 0;
    let locked = false;
    new MutationObserver(() => {
        const now = document.querySelector("#ask .stop-button") !== null;
        if (now && !locked) window.locks += 1;
        locked = now;
    }).observe(document, {childList: true, subtree: true});
"""
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
    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)
    locks: int = 0
    """How often the box had been locked when the last question was sent or answered."""

    @property
    def answers(self) -> Locator:
        """Return the model's messages."""
        return self.page.locator("#chat [data-testid=bot]")

    @property
    def box(self) -> Locator:
        """Return where a question is typed."""
        return self.page.locator("#ask textarea")

    @property
    def thumbnails(self) -> Locator:
        """Return the pictures that go with the next question."""
        return self.page.locator("#ask .thumbnail-item")

    def button(self, name: str) -> Locator:
        """Return a button by the name that a screen reader tells."""
        return self.page.locator("#chat").get_by_role("button", name=name, exact=True)

    def open(self, served: Gateway) -> None:
        """Open the page by the printed address."""
        self.page.goto(f"{served.url}/#token={TOKEN}")
        self.box.wait_for()

    def ask(self, question: str, *pictures: Path) -> None:
        """Add pictures, type a question and send it."""
        if pictures:
            self.page.set_input_files("#ask input[type=file]", [str(path) for path in pictures])
            expect(self.thumbnails).to_have_count(len(pictures))
        self.box.fill(question)
        self.locks = self.page.evaluate("window.locks")
        self.page.locator("#ask .submit-button").click()

    def answered(self) -> None:
        """Wait until the answer is whole and the box takes another question."""
        self.page.wait_for_function("before => window.locks > before", arg=self.locks)
        expect(self.page.locator("#ask .submit-button")).to_be_visible()
        expect(self.box).to_be_enabled()
        self.locks = self.page.evaluate("window.locks")

    def clear(self) -> None:
        """Clear an answered conversation, and wait until the server has heard of it."""
        self.button("Clear").click()
        expect(self.answers).to_have_count(0)
        expect(self.page.locator("#speed p")).to_have_count(0)

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
    tab = Tab(context.new_page())
    page = tab.page
    page.set_default_timeout(PATIENCE_MS)
    page.add_init_script(_COUNT_LOCKS)
    page.on("request", lambda request: tab.hosts.add(urlsplit(request.url).netloc))
    page.on("console", lambda said: _complain(tab, said.type, said.text))
    page.on("pageerror", lambda error: _complain(tab, "error", str(error)))
    yield tab
    context.close()


def _complain(tab: Tab, kind: str, text: str) -> None:
    if kind in {"error", "warning"}:
        tab.complaints.append(f"{kind}: {text}")
