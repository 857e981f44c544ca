"""Text grows by whole characters and never shows a part of a stop string."""

import random

from hypothesis import given
from hypothesis import strategies as st

from llava_pack.engine.batching.detokenizer import AnswerText


def said(data: list[bytes], stops: tuple[str, ...] = ()) -> tuple[str, bool]:
    text = AnswerText(stops)
    whole = "".join(text.push(piece) for piece in data)
    return whole + text.end(), text.stopped


@given(st.text(), st.integers(0, 2**32))
def test_any_cut_of_the_bytes_gives_the_text(text, seed):
    data, chance = text.encode(), random.Random(seed)
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(5))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert said(pieces) == (text, False)


@given(st.text("ab", max_size=12), st.text("ab", min_size=1, max_size=3))
def test_text_ends_before_the_first_stop(text, stop):
    whole, stopped = said([bytes([byte]) for byte in text.encode()], (stop,))
    assert stopped == (stop in text)
    assert whole == text.split(stop)[0]


@given(st.text("abc", max_size=12), st.sets(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_what_was_said_is_never_taken_back(text, stops):
    answer = AnswerText(tuple(stops))
    shown = ""
    for char in text:
        shown += answer.push(char.encode())
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)


def test_half_a_character_waits():
    text = AnswerText()
    assert [text.push(bytes([byte])) for byte in "é".encode()] == ["", "é"]


def test_half_a_character_at_the_end_is_shown_as_replaced():
    text = AnswerText()
    assert text.push("é".encode()[:1]) + text.end() == "\ufffd"


def test_broken_bytes_do_not_block_what_follows():
    assert said([b"a\xff", b"b"]) == ("a\ufffdb", False)


def test_nothing_is_said_after_a_stop():
    text = AnswerText(("!",))
    assert [text.push(b"yes! no"), text.push(b"more"), text.end()] == ["yes", "", ""]
