"""How much a key may ask, by a clock that is given."""

import pytest

from llava_pack.serve.access.key import Key, Quota
from llava_pack.serve.access.quota import Books, Bucket, QuotaError


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
    with pytest.raises(QuotaError, match="6 requests per minute") as refused:
        books.admit(key)
    assert refused.value.retry_s == 10
    clock.now_s = 9.9
    assert _taken(books, key) == 0
    clock.now_s = 10.0
    assert _taken(books, key) == 1
    clock.now_s = 10_000.0
    assert _taken(books, key) == 6, "no more than a minute's worth is saved up"


def _owes(books: Books, key: Key, clock: Clock, *, retry_s: int) -> None:
    """Assert that a key is refused for its tokens, and admitted when it is told to come back."""
    with pytest.raises(QuotaError, match="86400 tokens per day") as refused:
        books.admit(key)
    assert refused.value.retry_s == retry_s
    clock.now_s += retry_s
    assert clock.now_s == 100.0
    books.admit(key)


def test_tokens_are_owed_until_they_came_back() -> None:
    clock = Clock()
    books, key = Books(clock), _key(tokens_per_day=86_400)
    assert _taken(books, key) == 100
    books.charge(key, 86_400 + 99)
    _owes(books, key, clock, retry_s=100)


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


def test_who_comes_after_knows_what_was_left() -> None:
    """An attack: whoever brings the gateway down begins with a full quota."""
    clock = Clock()
    before, key = Books(clock), _key(requests_per_min=6, tokens_per_day=86_400)
    assert before.changes(9) == {}
    assert _taken(before, key) == 6
    before.charge(key, 86_400 + 99)
    told = before.changes(9)
    assert (told, before.changes(9)) == ({"ann": (0.0, 0.0, -99.0)}, {})
    clock.now_s = 50.0
    after = Books(clock, told)
    _owes(after, key, clock, retry_s=50)


def test_requests_that_were_taken_are_known_to_who_comes_after() -> None:
    clock = Clock()
    before, key = Books(clock), _key(requests_per_min=6)
    assert _taken(before, key) == 6
    clock.now_s = 25.0
    after = Books(clock, before.changes(9))
    assert _taken(after, key) == 2, "what came back meanwhile"
    assert _taken(Books(clock), key) == 6, "the mutation: nobody tells"


def test_what_is_left_is_told_of_so_many_keys_at_once_and_of_all_in_the_end() -> None:
    books = Books(Clock())
    for number in range(5):
        books.admit(_key(f"k{number}", requests_per_min=9))
    told = [set(books.changes(2)) for _ in range(4)]
    assert told == [{"k0", "k1"}, {"k2", "k3"}, {"k4"}, set()]
    assert Books(Clock(), {"k0": (0.0, 8.0, 1e15)}).changes(2) == {}


@pytest.mark.parametrize("told", [(float("nan"),) * 3, (1e300, 1e300, 1e300)])
def test_what_is_no_time_and_no_number_gives_no_more_than_there_is(told: tuple[float, ...]) -> None:
    assert _taken(Books(Clock(), {"ann": told}), _key(requests_per_min=6)) == 6
