"""Text that cannot become a link, a picture, a tag or a diagram."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.serve.page import text as page_text
from llava_pack.serve.page.text import JOINER, disarmed, plain

# What each thing needs side by side, as the page's parser looks for it.
_NEEDED = {
    "tag": r"<[A-Za-z/!?]",
    "link": r"\]\(",
    "definition": r"\]:",
    "address": r"://",
    "www": r"www\.",
    "mail": r"[\w.+-]@[\w-]",
    "diagram": r"mermaid",
}
_PIECES = [
    "<",
    "/",
    "!",
    "?",
    "a",
    "]",
    "(",
    ":",
    "//",
    "www",
    ".",
    "@",
    "mermaid",
    "m",
    "\n",
    "`",
    JOINER,
]


@pytest.mark.parametrize("needed", _NEEDED.values(), ids=_NEEDED)
@given(pieces=st.lists(st.sampled_from(_PIECES)))
def test_nothing_that_is_needed_is_side_by_side(needed: str, pieces: list[str]) -> None:
    assert re.search(needed, disarmed("".join(pieces)), re.IGNORECASE) is None


@given(text=st.text() | st.lists(st.sampled_from(_PIECES)).map("".join))
def test_the_text_comes_back_whole(text: str) -> None:
    assert plain(disarmed(text)) == plain(text)
    assert disarmed(disarmed(text)) == disarmed(text)


@pytest.mark.parametrize(
    "text",
    ["**bold** _and_ `code`", "- a\n- b\n", "| a |\n|---|\n| b |", "# Head", "1 < 2 > 0 & a:b"],
)
def test_what_is_harmless_is_left_alone(text: str) -> None:
    assert disarmed(text) == text


@pytest.mark.parametrize("name", _NEEDED)
def test_each_seam_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {"tag": "<b", "link": "](", "definition": "]:", "address": "://", "www": "www.",
               "mail": "a@b", "diagram": "Mermaid"}[name]  # fmt: skip
    seams = {"tag": 0, "link": 1, "definition": 1, "address": 2, "www": 3, "mail": 4, "diagram": 5}
    every = re.split(r"^\s+\||\n\s+\|", page_text._SEAMS.pattern)
    left = "|".join(seam for number, seam in enumerate(every) if number != seams[name])
    assert disarmed(written) != written
    monkeypatch.setattr(page_text, "_SEAMS", re.compile(left, re.VERBOSE | re.IGNORECASE))
    assert disarmed(written) == written
