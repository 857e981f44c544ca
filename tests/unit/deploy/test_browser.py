"""The page is opened by a file: no command line holds its token."""

import re
import webbrowser
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llava_pack.deploy import browser

URL = "http://localhost:7860/#token=abc"


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name == "href"]


def test_the_file_leads_to_the_page_by_a_link_and_by_itself() -> None:
    links = Links()
    links.feed(browser.redirect(URL))
    assert links.found == [URL]
    assert f'location.replace("{URL}")' in browser.redirect(URL)


def test_an_address_cannot_end_the_script() -> None:
    assert len(re.findall("</script>", browser.redirect("http://localhost/</script>"))) == 1


def test_without_a_screen_nothing_is_opened_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with browser.shown(URL, tmp_path) as is_open:
        assert not is_open
    assert not any(tmp_path.iterdir())


def test_the_browser_gets_a_private_file_and_never_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "given"
    program = tmp_path / "show"
    program.write_text(f'#!/bin/sh\nprintf %s "$1" >{given}\n')
    program.chmod(0o755)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "_tryorder", [str(program)])
    monkeypatch.setattr(
        webbrowser, "_browsers", {str(program): [None, webbrowser.GenericBrowser(str(program))]}
    )
    with browser.shown(URL, tmp_path) as is_open:
        assert is_open
        place = Path(given.read_text().removeprefix("file://"))
        assert place.stat().st_mode & 0o777 == 0o600
        assert URL in place.read_text()
    assert not place.exists()
    assert "token" not in given.read_text()
