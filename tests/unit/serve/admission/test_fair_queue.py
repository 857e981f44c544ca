"""Turns go round the callers: laws of the queue, and the model behind it."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.engine.port import Event, Request
from llava_pack.engine.stats import Stats
from llava_pack.format.errors import UsageError
from llava_pack.serve.admission.fair_models import Prepared, Shared, SharedModels
from llava_pack.serve.admission.fair_queue import FairQueue, Party, Seats, Ticket
from llava_pack.serve.admission.turnover import Turnover
from llava_pack.serve.caller import Caller
from llava_pack.serve.counters import Tally
from llava_pack.serve.port import MOST_RETRY_S, OverloadedError, Served, ShareError, Vitals

_STEPS = st.lists(
    st.tuples(st.sampled_from(["join", "join", "join", "end"]), st.integers(0, 5)), max_size=80
)
ANN, BOB = Caller(name="ann"), Caller(name="bob")


@given(_STEPS, st.integers(1, 4), st.integers(0, 2))
def test_who_has_no_seat_waits_for_one_turn_of_each_other_at_most(
    steps: list[tuple[str, int]], total: int, kept: int
) -> None:
    queue, seated = FairQueue(Seats(total, kept)), list[Ticket]()
    passed: dict[str, int] = {}
    for step, number in steps:
        if step == "join":
            queue.join(f"caller {number}", 0)
        elif seated:
            queue.leave(seated.pop(number % len(seated)), 0)
        for ticket in queue.seat(0):
            seated.append(ticket)
            passed.pop(ticket.who, None)
            for who in {f"caller {n}" for n in range(6)} - {ticket.who}:
                if queue.waiting_by[who] and all(other.who != who for other in seated):
                    passed[who] = passed.get(who, 0) + 1
                    assert passed[who] <= 5
        assert len(seated) == queue.held <= total
        if queue.waiting and queue.held == 0:
            raise AssertionError("seats are free and nobody is seated")


@given(_STEPS, st.integers(1, 3))
def test_a_caller_alone_has_every_seat_in_the_order_of_coming(
    steps: list[tuple[str, int]], total: int
) -> None:
    queue, joined, seated = FairQueue(Seats(total, kept=1)), list[Ticket](), list[Ticket]()
    for step, _ in steps:
        if step == "join":
            joined.append(queue.join("ann", 0))
        elif seated:
            queue.leave(seated.pop(0), 0)
        seated += queue.seat(0)
        assert queue.held == min(total, queue.held + queue.waiting)
    assert [ticket for ticket in joined if ticket.seated] == joined[: len(joined) - queue.waiting]


def test_the_last_seat_is_kept_while_somebody_else_is_around() -> None:
    queue = FairQueue(Seats(3, kept=1))
    queue.leave(queue.join("bob", 0), 0)
    anns = [queue.join("ann", 0) for _ in range(4)]
    assert queue.seat(0) == anns[:2]
    (bob,) = [queue.join("bob", 1)]
    assert queue.seat(1) == [bob]
    queue.leave(bob, 1)
    assert queue.seat(2) == []
    assert queue.seat(100) == anns[2:3], "he was not seen for a minute"


def _turns_that_bob_waited(queue: FairQueue) -> int:
    """Ann has forty requests that take long; bob has three now and then that do not."""
    ends: list[tuple[int, Ticket]] = []
    waited = 0
    for now in range(300):
        for _, ticket in (ended := [end for end in ends if end[0] <= now]):
            queue.leave(ticket, now)
        ends = [end for end in ends if end not in ended]
        while queue.waiting_by["ann"] < 40:
            queue.join("ann", now)
        if now % 10 == 0:
            for _ in range(3):
                queue.join("bob", now)
        ends += [(now + (20 if one.who == "ann" else 1), one) for one in queue.seat(now)]
        waited += queue.waiting_by["bob"]
    return waited


def test_who_asks_what_takes_long_has_no_more_than_a_share() -> None:
    """An attack: of every two turns one was ann's, and with it nearly all of the time."""
    assert _turns_that_bob_waited(FairQueue(Seats(10, kept=3))) == 0


def test_without_shares_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FairQueue, "_share", lambda *_: 1)
    assert _turns_that_bob_waited(FairQueue(Seats(10, kept=3))) > 30


def test_what_others_needed_lately_is_kept_for_them_up_to_an_equal_share() -> None:
    queue = FairQueue(Seats(10))
    bobs = [queue.join("bob", 0) for _ in range(6)]
    assert queue.seat(0) == bobs, "nobody else is around"
    for bob in bobs:
        queue.leave(bob, 1)
    anns = [queue.join("ann", 30) for _ in range(20)]
    assert queue.seat(30) == anns[:5], "half is bob's"
    bobs = [queue.join("bob", 31) for _ in range(6)]
    assert queue.seat(31) == bobs[:5]
    queue.leave(anns[0], 32)
    assert queue.seat(32) == [anns[5]], "she has fewer"


def test_what_somebody_needed_is_forgotten() -> None:
    queue = FairQueue(Seats(10))
    for bob in [queue.join("bob", 0) for _ in range(4)]:
        queue.leave(bob, 0)
    queue.leave(queue.join("bob", 61), 61)
    for _ in range(20):
        queue.join("ann", 62)
    assert len(queue.seat(62)) == 9, "one is enough for him now"
    assert len(queue.seat(200)) == 1, "and he is not around any more"


def test_many_requests_of_one_key_that_wait_for_each_other_are_no_stall() -> None:
    queue = FairQueue(Seats(2, kept=1))
    for _ in range(9):
        queue.join("ann", 0)
    for now in range(0, 60, 10):
        seated = queue.seat(now)
        assert queue.oldest_s(now + 10) == 10, "since her last turn"
        queue.leave(seated[0], now + 10)
    queue.seat(60)
    queue.join("bob", 60)
    assert queue.seat(60) == []
    assert queue.oldest_s(75) == 15, "nothing moves"


@pytest.mark.parametrize("slots", [4, 5, 6, 8])
@pytest.mark.parametrize("others", [1, 3, 5, 8, 20, 100])
def test_many_who_ask_now_and_then_do_not_idle_half_of_the_slots(slots: int, others: int) -> None:
    queue = FairQueue(Seats(slots + 2, kept=3))
    for name in range(others):
        queue.leave(queue.join(f"other {name}", 0), 0)
    anns = [queue.join("ann", 1) for _ in range(40)]
    assert len(queue.seat(1)) >= slots // 2
    for name in range(others):
        queue.leave(queue.join(f"other {name}", 61), 61)
    assert anns[0].seated


@pytest.mark.parametrize("slots", [4, 5, 6, 8])
@pytest.mark.parametrize("busy", [2, 3, 9])
def test_whoever_comes_is_next_beside_keys_that_are_busy(slots: int, busy: int) -> None:
    queue = FairQueue(Seats(slots + 2, kept=3))
    for name in range(busy):
        for _ in range(40):
            queue.join(f"busy {name}", 0)
    queue.seat(0)
    assert slots - 1 <= queue.held <= max(slots, min(busy, slots + 2))
    new = queue.join("new", 1)
    if queue.held < slots + 2:
        assert queue.seat(1) == [new]


def test_who_leaves_the_line_is_not_seated() -> None:
    queue = FairQueue(Seats(1))
    first, second = queue.join("ann", 0), queue.join("ann", 5)
    assert queue.seat(5) == [first]
    assert queue.oldest_s(7) == 2
    queue.leave(second, 7)
    queue.leave(first, 7)
    assert (queue.seat(7), queue.waiting, queue.held, queue.oldest_s(9)) == ([], 0, 0, 0)


def test_the_others_of_a_party_wait_beside_the_line_and_take_turns_in_it() -> None:
    queue, party = FairQueue(Seats(2)), Party(3)
    first, second, third = (queue.join("ann", 0, party) for _ in range(3))
    assert (queue.seat(0), queue.waiting_by["ann"]) == ([first], 2)
    queue.leave(third, 0)
    queue.proceed(party, 1)
    bob = queue.join("bob", 1)
    queue.leave(first, 2)
    assert queue.seat(2) == [bob, second]


def test_a_party_that_keeps_a_seat_hands_on_its_last_one_and_no_other() -> None:
    queue, party = FairQueue(Seats(1)), Party(3, keeps=True)
    first, second, third = (queue.join("ann", 0, party) for _ in range(3))
    assert queue.seat(0) == [first]
    bob = queue.join("bob", 0)
    queue.leave(first, 1)
    queue.seats = Seats(2)
    assert queue.seat(1) == [second, bob]
    queue.seats = Seats(1)
    queue.leave(bob, 2)
    queue.leave(second, 2)
    assert queue.seat(2) == [third]
    queue.leave(third, 3)
    assert (queue.seat(3), queue.waiting, queue.held, party.seats) == ([], 0, 0, 0)


_QUIET = Vitals(steps=0, running=0, waiting=0, stalled_s=0, bound_s=60)


@dataclass(eq=False)
class _Model:
    """A model whose answers end when they are told to."""

    slots: int = 2
    name: str = "m"
    tally: Tally = field(default_factory=Tally)
    running: list[str] = field(default_factory=list)
    full: bool = False
    ends: dict[str, asyncio.Event] = field(default_factory=dict)
    stats: Stats = field(default_factory=Stats)
    vitals: Vitals = _QUIET

    @property
    def info(self) -> Any:
        return SimpleNamespace(slots=self.slots)

    def admit(self) -> None:
        return None

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        self.running.append(request.request_id)
        await self.ends.setdefault(request.request_id, asyncio.Event()).wait()
        self.running.remove(request.request_id)
        return
        yield


def _ask(model: Shared, name: str, caller: Caller) -> asyncio.Task[None]:
    async def prepare() -> Prepared:
        return Prepared(request=Request(request_id=name, messages=()))

    async def ask() -> None:
        async for _ in model.answer(caller, prepare):
            pass

    return asyncio.create_task(ask())


async def _settle() -> None:
    for _ in range(12):  # each task has gone as far as it can
        await asyncio.sleep(0)


@pytest.mark.parametrize("other", [BOB, ANN])
def test_forty_requests_of_one_key_let_another_one_in_next(other: Caller) -> None:
    """An attack: bob's 0.2 s became 8 s behind ann's forty; as they do without names."""

    async def asked() -> None:
        model = _Model()
        shared = Shared(cast("Served", model))
        anns = [_ask(shared, f"ann {n}", ANN) for n in range(40)]
        await _settle()
        bob = _ask(shared, "bob", other)
        await _settle()
        assert len(model.running) == 4, "two slots, and two that are ready for them"
        assert (shared.stats.waiting, shared.vitals.waiting) == (37, 37)
        for end in range(2):
            model.ends[f"ann {end}"].set()
            await _settle()
        assert ("bob" in model.running) == (other is BOB)
        for task in (*anns, bob):
            task.cancel()
        await asyncio.gather(*anns, bob, return_exceptions=True)
        assert (shared.stats.waiting, shared.full) == (0, False)

    asyncio.run(asked())


def test_while_others_are_around_a_slot_is_free_for_them_at_once() -> None:
    async def asked() -> None:
        model = _Model(slots=4)
        shared = Shared(cast("Served", model))
        model.ends["first"] = asyncio.Event()
        model.ends["first"].set()
        await _ask(shared, "first", BOB)
        anns = [_ask(shared, f"ann {n}", ANN) for n in range(40)]
        await _settle()
        assert len(model.running) == 3
        bob = _ask(shared, "bob", BOB)
        await _settle()
        assert len(model.running) == 4
        assert "bob" in model.running
        for task in (*anns, bob):
            task.cancel()
        await asyncio.gather(*anns, bob, return_exceptions=True)

    asyncio.run(asked())


def test_a_full_line_has_room_for_who_has_nothing_in_it_and_a_share_for_each() -> None:
    async def asked() -> None:
        model = _Model(slots=1)
        shared = Shared(cast("Served", model), queue=8)
        anns = [_ask(shared, f"ann {n}", ANN) for n in range(9)]
        await _settle()
        assert shared.full
        with pytest.raises(OverloadedError, match="the queue is full: 9 requests"):
            shared.admit(ANN)
        shared.admit(BOB)
        bob = _ask(shared, "bob", BOB)
        await _settle()
        with pytest.raises(ShareError, match="6 requests of this key are already waiting"):
            shared.admit(ANN)
        assert model.tally.refused == 2
        for task in (*anns, bob):
            task.cancel()
        await asyncio.gather(*anns, bob, return_exceptions=True)
        shared.admit(ANN)

    asyncio.run(asked())


def test_however_many_one_key_sent_while_alone_another_finds_its_share() -> None:
    async def asked() -> None:
        shared = Shared(cast("Served", _Model(slots=1)), queue=8)
        anns = [_ask(shared, f"ann {n}", ANN) for n in range(9)]
        await _settle()
        bobs = []
        for n in range(4):
            shared.admit(BOB)
            bobs.append(_ask(shared, f"bob {n}", BOB))
            await _settle()
        with pytest.raises(ShareError, match="4 requests of this key are already waiting"):
            shared.admit(BOB)
        for task in (*anns, *bobs):
            task.cancel()
        await asyncio.gather(*anns, *bobs, return_exceptions=True)

    asyncio.run(asked())


@given(st.floats(0.05, 5), st.integers(1, 40), st.floats(0, 1), st.integers(1, 10))
def test_who_comes_back_when_told_finds_a_place(
    gap_s: float, ended: int, since: float, refused: int
) -> None:
    """One request ends every `gap_s`; the places that become free go round those who were told."""
    turnover = Turnover()
    turnover.begins(0.0)
    for number in range(1, ended + 1):
        turnover.ends(number * gap_s)
    now_s = (ended + since) * gap_s
    for number in range(1, refused + 1):
        free_s = (ended + number) * gap_s - now_s
        told_s = turnover.promise("", 1, now_s=now_s)
        assert told_s == MOST_RETRY_S or told_s >= free_s - 1e-6
        assert told_s <= 2 * number * gap_s + 1e-6, "and waits no longer than it has to"


def test_before_anything_ended_what_runs_tells_the_pace_and_a_pause_forgets_it() -> None:
    turnover = Turnover()
    turnover.begins(0.0)
    assert turnover.gap_s(30.0) == 30.0
    turnover.ends(40.0)
    turnover.rests(40.0)
    turnover.begins(4000.0)
    assert turnover.gap_s(4001.0) == 40.0


def test_what_cannot_be_prepared_frees_its_seat() -> None:
    async def fails() -> Prepared:
        raise UsageError("no picture")

    async def asked() -> None:
        shared = Shared(cast("Served", _Model(slots=1)), queue=0)
        for _ in range(3):
            with pytest.raises(UsageError, match="no picture"):
                await anext(shared.answer(ANN, fails))

    asyncio.run(asked())


def test_a_model_of_the_same_name_has_a_line_of_its_own() -> None:
    async def swapped() -> None:
        models = {"m": cast("Served", _Model())}
        shared = SharedModels(models)
        first = shared["m"]
        assert shared["m"] is first
        models["m"] = cast("Served", _Model())
        assert shared["m"] is not first
        assert list(shared) == ["m"]

    asyncio.run(swapped())
