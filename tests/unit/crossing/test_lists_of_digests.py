"""What a server has or needs, as it comes back to the laptop."""

import json
import re
from textwrap import wrap

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from llava_pack.crossing.digest_list import parse_digest_list
from llava_pack.crossing.request import read_base, read_list
from llava_pack.format.digest_list import short_form
from llava_pack.format.errors import UsageError

DIGESTS = st.sets(st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}"), max_size=40)


@given(DIGESTS, st.sampled_from(["have", "need"]))
def test_a_short_form_names_what_it_was_made_of(digests, kind):
    found = parse_digest_list(short_form(kind, digests))
    assert found.kind == kind
    assert all(one in found for one in digests)
    assert len(found.digests) <= len(digests)


@given(DIGESTS, st.integers(0, 10_000))
def test_a_short_form_that_lost_or_changed_a_digit_is_refused(digests, at):
    text = short_form("have", digests)
    at = 5 + at % (len(text) - 5)
    if text[at] == "\n":
        return
    other = "0" if text[at] != "0" else "1"
    for spoiled in (text[:at] + text[at + 1 :], text[:at] + other + text[at + 1 :]):
        with pytest.raises(UsageError, match="checksum"):
            parse_digest_list(spoiled)


PROSE = st.text(max_size=60) | st.sampled_from(
    ["Dad", "Abe", "fade\n\nDee", "Best regards\nAnn", "error: 1 of 74 files differ", "I have: 3"]
)


@st.composite
def mailed(draw, text):
    """Give a short form as it may look after a mail program and a person had it."""
    spaced = text.replace("\n", draw(st.sampled_from(["", " ", "\n"])))
    lines = [one for line in spaced.splitlines() for one in wrap(line, draw(st.integers(5, 90)))]
    quote = draw(st.sampled_from(["", "> ", ">", ">> ", "> > ", "    ", "\t> "]))
    end = draw(st.sampled_from(["\n", "\r\n", "  \n", "\n\n", f"\n{quote}\n"]))
    shouted = draw(st.sampled_from([str, str.upper]))
    return shouted("".join(f"{quote}{line}{end}" for line in lines))


@given(st.data(), DIGESTS, st.sampled_from(["have", "need"]), PROSE, PROSE)
@example(None, {"ab" * 32}, "need", "", "Dad")
@example(None, {"ab" * 32}, "need", "I have: 3", "Best regards\nAnn")
@example(None, {"ab" * 32}, "need", "what we need: see below", "error: 1 of 74 files differ")
def test_prose_around_it_wrapping_and_quotes_change_nothing(data, digests, kind, before, after):
    assume(not before.lstrip().startswith("{"))
    assume(not re.search(r"(have|need)\W*:([^0-9a-z]*[0-9a-f]){8}", before.lower()))
    text = short_form(kind, digests)
    sent = text if data is None else data.draw(mailed(text))
    found = parse_digest_list(f"{before}\n\n{sent}\n{after}")
    assert found == parse_digest_list(text)


@given(DIGESTS, st.integers(0, 10_000), st.sampled_from(["Dad", "Ann", "error: 1 of 74", "> fade"]))
def test_what_was_cut_is_refused_whatever_follows(digests, at, after):
    text = short_form("need", digests)
    with pytest.raises(UsageError, match="checksum"):
        parse_digest_list(f"{text[: 5 + at % (len(text) - 5)]}\n{after}\n")


def test_an_older_list_below_does_not_stand_in_for_one_that_was_cut():
    older, newer = (short_form("need", [digit * 64 for digit in digits]) for digits in ("a", "bc"))
    with pytest.raises(UsageError, match="checksum"):
        parse_digest_list(f"{newer[:-2]}\n\n> {older}\n")
    assert parse_digest_list(f"{newer}\n\n> {older}\n") == parse_digest_list(newer)


def test_it_may_have_been_mailed_quoted_and_shouted():
    text = short_form("need", [f"{number:064x}" for number in range(1 << 40, (1 << 40) + 9)])
    quoted = "Here it is:\n\n> " + text.replace("\n", "\n> ").upper() + "  \n"
    assert parse_digest_list(quoted) == parse_digest_list(text)


def test_200_files_take_less_than_2_kb():
    digests = [f"{number * 2654435761 % 2**32:08x}".ljust(64, "0") for number in range(200)]
    assert len(short_form("have", digests)) < 2000


@pytest.mark.parametrize(
    "text",
    ["", "nothing", "{", "{}", '{"kind": "have"}', '{"kind": "gift", "digests": []}', "[" * 9000,
     '{"kind": "have", "digests": [1]}', '{"kind": "have", "digests": ["ab"]}', "have", "have:",
     "have:12345678", "{" + '"a":{' * 90_000],
)  # fmt: skip
def test_other_texts_are_refused(text):
    with pytest.raises(UsageError):
        parse_digest_list(text)


def test_what_have_says_is_no_need():
    digests = ["ab" * 32]
    assert "ab" * 32 in read_list(short_form("have", digests), "have")
    assert "ab" * 32 in read_list(f"{'ab' * 32}\n", "have")
    for text in (short_form("have", digests), f"{'ab' * 32}\n",
                 json.dumps({"kind": "have", "digests": digests})):  # fmt: skip
        with pytest.raises(UsageError, match="--need"):
            read_list(text, "need")


def test_a_base_is_a_bundle_or_its_list(tmp_path):
    (tmp_path / "SHA256SUMS").write_text(f"{'ab' * 32}  model/a\n")
    for path in (tmp_path, tmp_path / "SHA256SUMS"):
        assert "ab" * 32 in read_base(path)
    with pytest.raises(UsageError, match="earlier bundle"):
        read_base(tmp_path / "nothing")
