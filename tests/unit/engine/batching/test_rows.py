"""Rows: who gets which, and what of an earlier conversation may be taken over."""

import pytest

from llava_pack.engine.batching.policy import Manner
from llava_pack.engine.batching.rows import Lease, Rows

EXACT = Manner(chunk_tokens=4, exact=True, padded=False, pictures_at_once=1)
LOOSE = Manner(chunk_tokens=4, exact=False, padded=True, pictures_at_once=1)
PROMPT = tuple(range(10))
ANSWERED = (*PROMPT, 90, 91, 92)


def rows(manner: Manner, count: int = 3, salt: str = "") -> Rows:
    """Return rows of which row 0 holds a conversation: a prompt of 10 tokens and 3 of an answer."""
    made = Rows(count, manner)
    lease = made.take(PROMPT, salt)
    made.hold(lease, ANSWERED, salt, len(PROMPT))
    made.leave(lease.row)
    return made


@pytest.mark.parametrize(
    ("manner", "keys", "reused"),
    [
        (EXACT, (*ANSWERED, 5, 6), 13),  # the next turn
        (EXACT, (*PROMPT, 90, 5, 6), 11),  # an answer that was written otherwise further on
        (EXACT, PROMPT, 8),  # the same question again: whole chunks
        (EXACT, (*PROMPT, 7, 7), 8),  # another question that begins so
        (EXACT, (0, 1, 2, 9, 9), 0),  # less than a chunk
        (LOOSE, PROMPT, 9),  # the last token is always computed
        (LOOSE, (0, 1, 2, 9, 9), 3),
        (LOOSE, (5, 5), 0),
    ],
)
def test_what_is_taken_over(manner, keys, reused):
    assert rows(manner).take(keys, "").reused == reused
    assert rows(manner, salt="mine").take(keys, "").reused == 0


def test_a_later_question_takes_no_answer_for_a_chunk():
    """After a next turn only the first prompt's chunks are anybody's."""
    made = rows(EXACT)
    longer = (*ANSWERED, *range(50, 60))
    lease = made.take(longer, "")
    made.hold(lease, longer, "", len(longer))
    made.leave(lease.row)
    assert made.take((*longer[:-1], 7, 7), "").reused == 8


def test_a_prompt_cut_short_counts_as_far_as_it_came():
    made = Rows(2, EXACT)
    lease = made.take(PROMPT, "")
    made.hold(lease, PROMPT[:4], "", len(PROMPT))
    made.leave(lease.row)
    assert made.take(PROMPT, "").reused == 4


def test_going_on_keeps_the_row_and_sharing_takes_another():
    assert rows(EXACT).take((*ANSWERED, 5), "") == Lease(0, 0, 13, 10)
    shared = rows(LOOSE).take((0, 1, 2, 9, 9), "")
    assert (shared.row, shared.source, shared.reused) == (1, 0, 3)


def test_a_row_in_use_can_be_copied_from():
    made = Rows(2, LOOSE)
    first = made.take(PROMPT, "")
    made.hold(first, PROMPT, "", len(PROMPT))
    second = made.take((*PROMPT[:6], 7, 7), "")
    assert (second.row, second.source, second.reused) == (1, 0, 6)
    assert made.free == 0


def test_what_failed_is_forgotten():
    made = rows(LOOSE)
    lease = made.take((*ANSWERED, 5), "")
    made.forget(lease.row)
    assert made.take((*ANSWERED, 5), "").reused == 0


def test_rows_move_only_where_fewer_are_computed_then():
    made = Rows(8, LOOSE)
    leases = [made.take((n, n), "") for n in range(5)]
    assert made.denser() is None
    for lease in leases[:2]:
        made.leave(lease.row)
    assert made.denser() == (4, 0)
    made.moved(4, 0)
    assert made.denser() is None
