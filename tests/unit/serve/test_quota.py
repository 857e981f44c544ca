"""How much a key may ask, by a clock that is given."""

import pytest

from llava_pack.serve.keys import Key, Quota
from llava_pack.serve.quota import Books, Bucket, QuotaError


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _key(name: str = "ann", **quota: int) -> Key:
    return Key(id=name, name=name, digest="", quota=Quota(**quota))


def _taken(books: Books, key: Key, most: int = 100) -> int:
    for count in range(most):
        try:
            books.admit(key)
        except QuotaError:
            return count
    return most


def test_requests_of_a_minute_come_back_evenly() -> None:
    clock = Clock()
    books, key = Books(clock), _key(requests_per_min=6)
    assert _taken(books, key) == 6
    with pytest.raises(QuotaError, match="6 requests a minute") as refused:
        books.admit(key)
    assert refused.value.retry_s == 10
    clock.now_s = 9.9
    assert _taken(books, key) == 0
    clock.now_s = 10.0
    assert _taken(books, key) == 1
    clock.now_s = 10_000.0
    assert _taken(books, key) == 6, "no more than a minute's worth is saved up"


def test_tokens_are_owed_until_they_came_back() -> None:
    clock = Clock()
    books, key = Books(clock), _key(tokens_per_day=86_400)
    assert _taken(books, key) == 100
    books.charge(key, 86_400 + 99)
    with pytest.raises(QuotaError, match="86400 tokens a day") as refused:
        books.admit(key)
    assert refused.value.retry_s == 100
    clock.now_s = 100.0
    books.admit(key)


def test_keys_do_not_share_a_quota_and_none_is_no_bound() -> None:
    books = Books(Clock())
    assert _taken(books, _key("ann", requests_per_min=1)) == 1
    assert _taken(books, _key("bob", requests_per_min=1)) == 1
    books.charge(_key("eve"), 10**12)
    assert _taken(books, _key("eve")) == 100


def test_a_clock_that_goes_back_gives_and_takes_nothing() -> None:
    bucket = Bucket.full(60, 60.0, 100.0).less(60)
    assert bucket.later(50.0).level == 0
    assert bucket.later(50.0).later(51.0).level == 1
