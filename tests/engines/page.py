"""The page in a real browser before an engine of the field, where no network is."""

from collections.abc import Iterator

import pytest

from tests.engines.installed import KNOWN, ROOT, Served, is_known
from tests.support.page import Tab, chromium, opened_tab


@pytest.fixture
def tab(served: Served) -> Iterator[Tab]:
    with chromium() as browser, opened_tab(browser) as opened:
        opened.open(served.url, served.token)
        yield opened
        assert opened.complaints == []
        assert opened.hosts == {served.url.removeprefix("http://")}


def test_a_person_asks_about_a_picture_and_goes_on(tab: Tab) -> None:
    """The second question is about another picture, in the same conversation."""
    for number in (0, 1):
        known = KNOWN[number]
        tab.ask(known["prompt"], ROOT / "bundles" / known["picture"])
        tab.answered()
        assert tab.state() in {"whole", "cut"}
        if number == 0:
            assert is_known(tab.answers.last.inner_text(), number)
    assert tab.answers.count() == 2
