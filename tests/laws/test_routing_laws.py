"""Laws of the choice among replicas: readiness, room, stability, balance, and what is alike."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from llava_pack.engine.port import Message, Picture, Request
from llava_pack.serve.gateway.routing import YIELDS, ReplicaLoad, affinity_of, choose

AFFINITIES = st.binary(max_size=8)


@st.composite
def loads(draw, *, most=8, busy=40):
    """Draw replicas with names of their own, whatever their slots and loads."""
    names = draw(st.lists(st.text(min_size=1, max_size=12), unique=True, max_size=most))
    return [
        ReplicaLoad(
            replica=name,
            slots=draw(st.integers(1, 16)),
            busy=draw(st.integers(0, busy)),
            ready=draw(st.booleans()),
        )
        for name in names
    ]


@given(loads(), AFFINITIES)
def test_one_is_chosen_where_one_is_ready_and_it_is_ready(replicas, affinity):
    chosen = choose(replicas, affinity)
    assert (chosen is None) == (not any(one.ready for one in replicas))
    assert chosen is None or (chosen.ready and chosen in replicas)


@given(loads(), AFFINITIES)
def test_none_is_full_while_another_has_room(replicas, affinity):
    chosen = choose(replicas, affinity)
    room = any(one.ready and one.busy < one.slots for one in replicas)
    assert chosen is None or chosen.full == (not room)


@given(loads(), AFFINITIES)
def test_none_is_far_from_the_least_loaded_of_those_that_could_be_asked(replicas, affinity):
    chosen = choose(replicas, affinity)
    shares = [one.share for one in replicas if one.ready]
    assert chosen is None or chosen.share <= min(shares) + YIELDS


@given(loads(), AFFINITIES, st.randoms())
def test_the_order_is_of_no_matter(replicas, affinity, random):
    shuffled = list(replicas)
    random.shuffle(shuffled)
    assert choose(shuffled, affinity) == choose(replicas, affinity)


@given(loads(busy=0), AFFINITIES, st.data())
def test_one_that_leaves_or_comes_moves_only_what_is_its_own(replicas, affinity, data):
    before = choose(replicas, affinity)
    for gone in replicas:
        after = choose([one for one in replicas if one is not gone], affinity)
        assert before in (after, gone)
    if replicas:
        away = data.draw(st.sampled_from(replicas))
        drained = [replace(one, ready=False) if one is away else one for one in replicas]
        assert choose(drained, affinity) == before or before == away


@given(st.integers(1, 6), st.integers(1, 8), st.lists(AFFINITIES, max_size=60))
def test_what_runs_is_balanced_however_alike_the_requests(count, slots, affinities):
    busy = Counter({f"10.0.0.{number}:7860": 0 for number in range(count)})
    for affinity in affinities:
        replicas = [ReplicaLoad(replica=name, slots=slots, busy=busy[name]) for name in busy]
        chosen = choose(replicas, affinity)
        assert chosen is not None
        busy[chosen.replica] += 1
        assert max(busy.values()) - min(busy.values()) <= slots * YIELDS + 1
    assert busy.total() == len(affinities)


def test_idle_replicas_share_what_is_asked_by_their_slots():
    replicas = [ReplicaLoad(replica=f"r{slots}", slots=slots, busy=0) for slots in (2, 4, 8)]
    asked = [choose(replicas, str(number).encode()) for number in range(14_000)]
    counts = Counter(one.replica for one in asked if one is not None)
    for name, expected in (("r2", 2000), ("r4", 4000), ("r8", 8000)):
        assert abs(counts[name] - expected) < 5 * expected**0.5  # five standard deviations


def _picture(colour):
    return Picture(1, 1, bytes([colour] * 3))


def _asked(*said, salt="", system="be brief"):
    messages = [Message("system", (system,))]
    messages += [
        Message("user" if n % 2 == 0 else "assistant", turn) for n, turn in enumerate(said)
    ]
    return affinity_of(Request(request_id="r", messages=tuple(messages), salt=salt))


_TURNS = st.lists(
    st.lists(st.text(max_size=5), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4
)


@given(_TURNS, st.lists(st.text(max_size=5).map(lambda text: (text,)), max_size=4))
def test_every_turn_of_a_conversation_is_alike(turns, more):
    assert _asked(*turns) == _asked(*turns, *more)


@given(st.text(max_size=5), st.text(max_size=5), st.integers(0, 255), st.integers(0, 255))
def test_questions_about_a_picture_are_alike_and_about_others_are_not(one, other, first, second):
    about = _asked((one, _picture(first)))
    assert about == _asked((_picture(first), other), (other,), (one, _picture(second)))
    assert (about == _asked((one, _picture(second)))) == (first == second)


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_what_begins_otherwise_is_not_alike(first, second, salt):
    asked = _asked((first,))
    assert (asked == _asked((second,))) == (first == second)
    assert (asked == _asked((first,), salt=salt)) == (not salt)
    assert asked != _asked((first,), system="be long")
