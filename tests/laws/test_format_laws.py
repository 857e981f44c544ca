"""Laws of the bundle format, over generated values."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.format import canonical
from llava_pack.format.errors import IntegrityError
from llava_pack.format.paths import bundle_path, path_defect
from llava_pack.format.sums import parse_sums, render_sums
from llava_pack.format.text import visible

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    SCALARS | UNICODE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(UNICODE, inner, max_size=4),
    max_leaves=20,
)
ODD_NAMES = st.sampled_from(["..", ".", "", "con", "-x", "a", "A", "a.b", "é", "x\n", "nul.x"])
PATHS = st.lists(ODD_NAMES | st.text(max_size=6), min_size=1, max_size=4).map("/".join)
GOOD_PATHS = st.from_regex(
    r"[a-z0-9_][a-z0-9_+=-]{0,8}(/[a-z0-9_][a-z0-9_+=-]{0,8}){0,2}", fullmatch=True
)
DIGESTS = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)


class TestCanonicalJson:
    @given(VALUES)
    def test_a_value_comes_back(self, value):
        assert canonical.loads(canonical.dumps(value), max_bytes=10**6) == value

    @given(VALUES)
    def test_one_value_has_one_encoding(self, value):
        data = canonical.dumps(value)
        spaced = json.dumps(value, indent=3).encode()
        assert canonical.dumps(canonical.loads(spaced, max_bytes=10**6)) == data
        assert data.count(b"\n") == 1

    @given(st.binary(max_size=60))
    def test_any_bytes_are_read_or_refused(self, data):
        try:
            value = canonical.loads(data, max_bytes=100)
        except IntegrityError:
            return
        assert canonical.loads(canonical.dumps(value), max_bytes=1000) == value


class TestPaths:
    @given(PATHS)
    def test_an_accepted_path_stays_inside_and_is_the_same_everywhere(self, path):
        if path_defect(path) is not None:
            with pytest.raises(IntegrityError):
                bundle_path(path)
            return
        assert re.fullmatch(r"[A-Za-z0-9._+@!=/-]+", path)
        assert not path.startswith("/")
        for name in path.split("/"):
            assert name
            assert name[0] not in ".-"
            assert name[-1] != "."


class TestSums:
    @given(st.dictionaries(GOOD_PATHS, DIGESTS, min_size=1, max_size=6))
    def test_what_is_rendered_is_parsed(self, entries):
        try:
            data = render_sums(entries)
        except IntegrityError:
            folders = {path.rpartition("/")[0] for path in entries}
            devices = {"con", "prn", "aux", "nul"}
            names = {name for path in entries for name in path.split("/")}
            clash = any(f == p or f.startswith(p + "/") for f in folders for p in entries)
            assert clash or names & devices or any(re.fullmatch("(com|lpt)[0-9]", n) for n in names)
            return
        assert parse_sums(data) == entries
        assert list(parse_sums(data)) == sorted(entries)

    @given(st.binary(max_size=300))
    def test_any_bytes_are_read_or_refused(self, data):
        try:
            entries = parse_sums(data)
        except IntegrityError:
            return
        assert render_sums(entries) == data


@given(st.text())
def test_shown_text_holds_no_control_character_and_can_be_printed(text):
    shown = visible(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    shown.encode()
