"""Keys of people: what they look like, what is kept of them, what may be said of them."""

import re

import pytest

from llava_pack.format.errors import UsageError
from llava_pack.serve.access.key import (
    Key,
    Quota,
    checked_name,
    digest_of,
    from_document,
    id_of,
    new_key,
    ordered,
    read_expiry,
    read_quota,
    to_document,
)
from llava_pack.serve.access.sessions import SECRET_SHAPES

_NOW = 1_800_000_000


def _made(name: str = "ann") -> tuple[Key, str]:
    quota = Quota(requests_per_min=60)
    return new_key(name, scopes=["page", "ask"], quota=quota, created=_NOW, expires=0)


def test_a_key_is_random_and_only_its_digest_is_kept() -> None:
    (key, text), (other, again) = _made(), _made()
    assert re.fullmatch(r"lp_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", text)
    assert len({key.id, other.id, text, again}) == 4
    assert (id_of(text), digest_of(text)) == (key.id, key.digest)
    assert text.split("_", 2)[2] not in str(to_document([key]))
    assert key.scopes == ("ask", "page")
    assert re.search(SECRET_SHAPES[0], f"Bearer {text}")


def test_a_store_is_read_as_it_was_written() -> None:
    keys = (_made("ann")[0], _made("bob")[0])
    assert from_document(to_document(keys)) == keys
    assert from_document(to_document(())) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "x"}, {"id": "token"}, {"id": "../../etc"}, {"name": "a b"}, {"name": 5},
        {"scopes": ["root"]}, {"scopes": []}, {"expires": -1}, {"expires": "never"},
        {"requests_per_min": 1.5}, {"tokens_per_day": True}, {"created": None},
    ],
)  # fmt: skip
def test_a_store_with_another_value_is_refused(change: dict[str, object]) -> None:
    document = to_document([_made()[0]])
    document["keys"][0] |= change
    with pytest.raises(ValueError, match="not a key"):
        from_document(document)


@pytest.mark.parametrize(
    "document",
    [[], {}, {"schema": 2, "keys": []}, {"schema": 1}, {"schema": 1, "keys": {}},
     {"schema": 1, "keys": [1]}, {"schema": 1, "keys": [{}]}],
)  # fmt: skip
def test_another_document_is_no_store(document: object) -> None:
    with pytest.raises(ValueError, match="not a"):
        from_document(document)


def test_a_name_or_an_id_is_there_once() -> None:
    key = _made()[0]
    with pytest.raises(ValueError, match="twice"):
        from_document(to_document([key, key]))


@pytest.mark.parametrize(
    "name",
    ["", "a b", "a/b", "é", "-a", "a\n", "x" * 65, "token", "token-2", "anyone", "file-1", "a\x1b"],
)
def test_a_name_cannot_be_another_callers_or_end_a_line(name: str) -> None:
    with pytest.raises(UsageError, match=r"a key's name|is reserved for"):
        checked_name(name)


def test_names_of_people_are_taken() -> None:
    for name in ("ann", "a.n-n_2", "ann@bank.example", "tokens", "x" * 64):
        assert checked_name(name) == name


@pytest.mark.parametrize("text", ["", "60", "60/hour", "0/min", "-1/min", "1/min,2/min", "a/day"])
def test_a_quota_is_requests_or_tokens(text: str) -> None:
    with pytest.raises(UsageError, match="N/min for requests"):
        read_quota([text])


def test_quotas_add_up() -> None:
    assert read_quota([]) == Quota()
    assert read_quota(["60/min", "5/day"]) == Quota(requests_per_min=60, tokens_per_day=5)
    assert Quota(tokens_per_day=5).text == "5/day"


@pytest.mark.parametrize("text", ["", "90", "90 days", "2027-13-01", "soon", "9999-12-31x"])
def test_an_end_is_a_span_or_a_day(text: str) -> None:
    with pytest.raises(UsageError, match="expected days, hours or a date"):
        read_expiry(text, _NOW)


@pytest.mark.parametrize("text", ["0d", "2001-01-01"])
def test_an_end_that_is_over_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is in the past"):
        read_expiry(text, _NOW)


def test_a_key_ends_at_its_second() -> None:
    key = Key(id="0" * 12, name="a", digest="0" * 64, expires=read_expiry("90d", _NOW))
    assert key.expires == _NOW + 90 * 24 * 3600
    assert not key.expired(key.expires - 1)
    assert key.expired(key.expires)
    assert not Key(id="0" * 12, name="a", digest="0" * 64).expired(float("inf"))


def test_an_unknown_scope_is_named() -> None:
    with pytest.raises(UsageError, match="got root"):
        ordered(["ask", "root"])


@pytest.mark.parametrize("name", ["token", "token-2", "anyone", "file-1"])
def test_a_store_that_somebody_edited_has_no_name_of_another_caller(name: str) -> None:
    """Who has it would share turns, uploads and lines of the audit log with the start's token."""
    document = to_document([_made()[0]])
    document["keys"][0]["name"] = name
    with pytest.raises(ValueError, match="is reserved for"):
        from_document(document)
