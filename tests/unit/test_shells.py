"""Lines to paste: taken apart by each shell into the words that they were made of."""

import shlex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llava_pack.lock.profile import read_profile
from llava_pack.shells import for_windows, pasted
from tests.conftest import ROOT

FILE_NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters='"%'))


def taken_apart(line):
    """Return the words that the C runtime of Windows finds. Source: Microsoft, "Parsing C command-line arguments"."""
    words, word, quoted, there, at = [], "", False, False, 0
    while at < len(line):
        slashes = len(line[at:]) - len(line[at:].lstrip("\\"))
        if slashes:
            at += slashes
            before_quote = line[at : at + 1] == '"'
            word += "\\" * (slashes // 2 if before_quote else slashes)
            there = True
            if before_quote and slashes % 2:
                word += '"'
                at += 1
            continue
        if line[at] == '"':
            quoted, there = not quoted, True
        elif line[at] in " \t" and not quoted:
            words += [word] if there else []
            word, there = "", False
        else:
            word, there = word + line[at], True
        at += 1
    return words + ([word] if there else [])


@given(st.lists(FILE_NAMES, min_size=1))
@example([";\\"])
def test_the_c_runtime_of_windows_finds_the_words_again(words):
    assert taken_apart(for_windows(words)) == words


@given(st.lists(FILE_NAMES, min_size=1))
def test_nothing_that_cmd_or_powershell_act_on_is_outside_of_quotes(words):
    outside = "".join(for_windows(words).split('"')[::2])
    assert not set(outside) & set("&|<>^()!;,`'{}#$*?[]")


@given(st.lists(FILE_NAMES, min_size=1))
def test_sh_finds_them_too(words):
    assert shlex.split(pasted(words, "linux")) == words


@pytest.mark.parametrize(
    ("platform", "line"),
    [
        ("linux", "scp 'a b' me@gpu:"),
        ("darwin", "scp 'a b' me@gpu:"),
        ("win32", 'scp "a b" me@gpu:'),
    ],
)
def test_each_system_gets_its_own_quotes(platform, line):
    assert pasted(["scp", "a b", "me@gpu:"], platform) == line


def test_a_profile_that_powershell_redirected_is_the_one_that_sh_did(tmp_path):
    saved = ROOT / "tests/fixtures/targets/driver-470.json"
    wide = tmp_path / "TARGET.json"
    wide.write_bytes(saved.read_text().replace("\n", "\r\n").encode("utf-16"))
    assert read_profile(wide) == read_profile(saved)
