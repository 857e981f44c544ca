"""The scheduler over a model of numbers: rows stay right whatever joins, ends or is cancelled.

The model here writes each row's tokens into a table, as a cache would, and answers with a number
made from everything in the row. A row that is mixed up changes the answer.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from llava_pack.engine.batching.policy import Manner
from llava_pack.engine.batching.scheduler import SlotEngine
from llava_pack.engine.batching.token import ChosenToken
from llava_pack.engine.inputs.prompt import Prompt
from llava_pack.engine.measures import Trace, Usage
from llava_pack.engine.port import (
    PICTURE_ID,
    Delta,
    EngineInfo,
    Event,
    Failed,
    Finished,
    Message,
    Picture,
    Request,
)
from llava_pack.engine.sampling import Sampling
from llava_pack.engine.stats import Work
from llava_pack.format.errors import SpaceError, UsageError

CHUNK = 4


class Numbers:
    """A model with rows: the next token is a hash of the row."""

    work = Work()

    def __init__(self, slots: int, *, padded: bool = False, exact: bool = True) -> None:
        self.manner = Manner(chunk_tokens=CHUNK, exact=exact, padded=padded, pictures_at_once=2)
        self.info = EngineInfo(
            model="numbers", precision="fp32", device="cpu", context_tokens=64, slots=slots,
            conv_mode="plain", image_tokens=0,
        )  # fmt: skip
        self.rows: list[list[int]] = [[-1] * 64 for _ in range(slots)]
        self.no_memory: set[int] = set()
        self.decoded: list[int] = []
        self.looked: list[int] = []
        self.prefilled = 0
        self.highest: list[int] = []

    def write(self, request: Request) -> Prompt:
        ids = tuple(int(word) for word in request.messages[0].text.split())
        if 913 in ids:
            raise UsageError("913 is unlucky")
        pictures = request.messages[0].pictures
        spans = tuple(picture.width for picture in pictures)
        ids = (*[PICTURE_ID] * sum(spans), *ids)
        return Prompt(
            ids, pictures, request.sampling.stop, frozenset({0}), spans=spans, salt=request.salt
        )

    def tokenize(self, request: Request) -> tuple[int, ...]:
        return self.write(request).ids

    def trace(self, request: Request) -> Trace:
        return Trace(prompt=str(self.write(request).ids), words="")

    def look(self, prompts: Sequence[Prompt], begins: Sequence[int]) -> list[tuple[int, ...]]:
        self.looked.append(len(prompts))
        if any(999 in prompt.ids for prompt in prompts):
            raise ValueError("a bug")
        return [_values(prompt) for prompt in prompts]

    def chooser(self, prompt: Prompt, sampling: Sampling) -> random.Random:
        return random.Random(sampling.seed)

    def prepare(self, request: Request) -> None:
        pass

    def prefill(
        self, row: int, embeddings: tuple[int, ...], begin: int, chooser: object
    ) -> ChosenToken | None:
        if 977 in embeddings and begin:
            raise SpaceError("no memory")
        end = min(begin + CHUNK, len(embeddings))
        self.prefilled += end - begin
        self.rows[row][begin:end] = embeddings[begin:end]
        return self._next(row, end) if end == len(embeddings) else None

    def decode(
        self, rows: Sequence[int], tokens: Sequence[int], lengths: Sequence[int], choosers: object
    ) -> list[ChosenToken]:
        self.decoded.append(len(tokens))
        self.highest.append(max(rows) + 1)
        if len(tokens) in self.no_memory:
            raise SpaceError("no memory")
        for row, token, length in zip(rows, tokens, lengths, strict=True):
            self.rows[row][length] = token
        return [self._next(row, length + 1) for row, length in zip(rows, lengths, strict=True)]

    def copy(self, source: int, target: int, length: int) -> None:
        self.rows[target] = self.rows[source][:length] + [-2] * (64 - length)

    def token_bytes(self, token_id: int) -> bytes:
        return f" {token_id}".encode()

    def _next(self, row: int, length: int) -> ChosenToken:
        seen = self.rows[row][:length]
        assert all(value >= 0 for value in seen), f"row {row} holds {seen}"
        return ChosenToken(sum((place + 1) * value for place, value in enumerate(seen)) % 97 + 1)


def _values(prompt: Prompt) -> tuple[int, ...]:
    """Return what stands in a row for a prompt: a picture is worth its first byte."""
    seen = (
        one.rgb[0]
        for one, span in zip(prompt.pictures, prompt.spans, strict=True)
        for _ in range(span)
    )
    return tuple(next(seen) if one == PICTURE_ID else one for one in prompt.ids)


def dot(width: int, value: int) -> Picture:
    """Return a picture that takes `width` tokens and looks like `value`."""
    return Picture(width, 1, bytes([value]) * 3 * width)


def ask(
    name: str,
    ids: Sequence[int],
    max_tokens: int = 10,
    *,
    pictures: Sequence[Picture] = (),
    salt: str = "",
    **sampling: object,
) -> Request:
    text = " ".join(map(str, ids))
    return Request(
        request_id=name,
        messages=(Message("user", (*pictures, text)),),
        sampling=Sampling(max_tokens=max_tokens, **sampling),  # type: ignore[arg-type]
        salt=salt,
    )


def drained(engine: SlotEngine) -> list[Event]:
    events: list[Event] = []
    while not engine.idle:
        events += engine.step()
    return events


def tokens(events: Sequence[Event], name: str) -> list[int]:
    return [t for e in events if isinstance(e, Delta) and e.request_id == name for t in e.token_ids]


def alone(request: Request) -> list[int]:
    engine = SlotEngine(Numbers(1))
    engine.submit(request)
    return tokens(drained(engine), request.request_id)


def any_request(name: str, chance: random.Random) -> Request:
    """Return a request that has much in common with others: a picture, a beginning, or all."""
    pictures = (
        [dot(chance.randrange(1, 3), chance.randrange(1, 4))] if chance.random() < 0.5 else []
    )
    begin = [1, 2, 3, 4, 5, 6, 7, 8, 9][: chance.randrange(10)]
    ids = [*begin, *(chance.randrange(1, 12) for _ in range(chance.randrange(1, 12)))]
    salt = chance.choice(["", "", "somebody"])
    return ask(name, ids, chance.randrange(1, 20), pictures=pictures, salt=salt)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_any_mix_gives_what_each_gets_alone(seed, padded, exact):
    chance = random.Random(seed)
    requests = [any_request(f"r{n}", chance) for n in range(20)]
    model = Numbers(chance.randrange(1, 6), padded=padded, exact=exact)
    engine = SlotEngine(model)
    waiting, events = list(requests), []
    cancelled: set[str] = set()
    while waiting or not engine.idle:
        while waiting and chance.random() < 0.4:
            engine.submit(waiting.pop(0))
        if chance.random() < 0.1:
            name = chance.choice(requests).request_id
            cancelled.add(name)
            engine.cancel(name)
        events += engine.step()
        assert engine.running <= engine.info.slots
    assert engine.work.prefill_tokens == model.prefilled
    assert engine.work.kv_tokens == 0
    for request in requests:
        got, want = tokens(events, request.request_id), alone(request)
        ends = [e for e in events if isinstance(e, Finished) and e.request_id == request.request_id]
        assert len(ends) == 1
        if ends[0].reason == "cancelled":
            assert request.request_id in cancelled
            assert got == want[: len(got)]
        else:
            assert got == want


def test_those_who_are_answered_get_a_turn_between_chunks():
    engine = SlotEngine(Numbers(2))
    engine.submit(ask("short", [1], 30))
    engine.step()
    engine.submit(ask("long", [2] * 40, 5))
    events: list[Event] = []
    while not tokens(events, "long"):
        before = len(tokens(events, "short"))
        events += engine.step()
        events += engine.step()
        assert len(tokens(events, "short")) == before + 1, "a turn passed without a token"


def test_short_newcomers_join_together_before_the_next_turn():
    engine = SlotEngine(Numbers(4))
    for name in "abcd":
        engine.submit(ask(name, [ord(name) - 90], 3))
    first = [engine.step() for _ in range(4)]
    assert [[e.request_id for e in events] for events in first] == [["a"], ["b"], ["c"], ["d"]]
    assert {e.request_id for e in engine.step()} == set("abcd")


def test_pictures_of_several_requests_are_looked_at_together():
    model = Numbers(4)
    engine = SlotEngine(model)
    for name in "abcd":
        engine.submit(ask(name, [ord(name) - 90], pictures=[dot(1, 5)]))
    drained(engine)
    assert model.looked == [2, 2]  # at most two pictures at once


def test_a_picture_that_cannot_be_seen_fails_alone(caplog):
    engine = SlotEngine(Numbers(4))
    good = ask("good", [3], pictures=[dot(2, 5)])
    engine.submit(ask("bad", [999], pictures=[dot(2, 6)]))
    engine.submit(good)
    events = drained(engine)
    assert [e.request_id for e in events if isinstance(e, Failed)] == ["bad"]
    assert tokens(events, "good") == alone(good)
    caplog.clear()


def conversation(engine: SlotEngine, first: Request) -> tuple[list[int], Request]:
    """Ask, and return the answer with the request that goes on after it."""
    engine.submit(first)
    said = tokens(drained(engine), first.request_id)
    ids = [int(word) for word in first.messages[0].text.split()]
    again = ask("next", [*ids, *said, 5, 6], pictures=first.messages[0].pictures, salt=first.salt)
    return said, again


def usage(engine: SlotEngine, request: Request) -> Usage:
    engine.submit(request)
    return next(e.usage for e in drained(engine) if isinstance(e, Finished))


def test_the_next_turn_prefills_only_what_is_new():
    engine = SlotEngine(Numbers(2))
    said, again = conversation(engine, ask("first", [1, 2, 3], 6, pictures=[dot(3, 9)]))
    counted = usage(engine, again)
    assert counted.prompt_tokens == 6 + len(said) + 2
    # The last token of an answer was never given to the model.
    assert counted.prompt_tokens - counted.cached_tokens == 3


@pytest.mark.parametrize(
    "other",
    [
        {"pictures": [(3, 8)]},
        {"pictures": [(3, 9)], "salt": "somebody"},
        {"pictures": []},
        {"pictures": [(3, 9), (1, 9)]},
    ],
    ids=["another picture", "another salt", "no picture", "one picture more"],
)
def test_another_conversation_gets_nothing_of_it(other):
    model = Numbers(2, exact=False)
    engine = SlotEngine(model)
    _, again = conversation(engine, ask("first", [1, 2, 3], 6, pictures=[dot(3, 9)]))
    pictures = [dot(*one) for one in other.pop("pictures")]
    ids = [int(word) for word in again.messages[0].text.split()]
    asked = ask("other", ids, pictures=pictures, **other)
    engine.submit(asked)
    events = drained(engine)
    end = next(e for e in events if isinstance(e, Finished))
    assert tokens(events, "other") == alone(asked)
    assert end.usage.cached_tokens == (3 if len(pictures) == 2 else 0)


def test_a_conversation_survives_others_while_there_are_rows():
    engine = SlotEngine(Numbers(3))
    _, again = conversation(engine, ask("first", [1, 2, 3], 6))
    for n in range(4):
        engine.submit(ask(f"other{n}", [20 + n] * 5, 2))
        drained(engine)
    assert usage(engine, again).cached_tokens == 0, "three rows hold the last three"
    engine = SlotEngine(Numbers(3))
    _, again = conversation(engine, ask("first", [1, 2, 3], 6))
    engine.submit(ask("other", [20] * 5, 2))
    engine.submit(ask("other2", [21] * 5, 2))
    drained(engine)
    assert usage(engine, again).cached_tokens > 0


def test_rows_close_up_where_they_are_padded():
    model = Numbers(8, padded=True)
    engine = SlotEngine(model)
    for n in range(8):
        engine.submit(ask(str(n), [n + 1], 3 if n != 7 else 40))
    drained(engine)
    assert max(model.highest) == 8
    assert model.highest[-1] == 1


def test_the_space_that_begins_a_turn_is_the_template_s():
    class Continued(Numbers):
        def write(self, request: Request) -> Prompt:
            return replace(super().write(request), opened=False)

    texts = []
    for model in (Numbers(1), Continued(1)):
        engine = SlotEngine(model)
        engine.submit(ask("a", [3, 4], 3))
        texts.append("".join(e.text for e in drained(engine) if isinstance(e, Delta)))
    assert texts[1] == f" {texts[0]}"


def test_first_come_first_served():
    engine = SlotEngine(Numbers(1))
    for n in range(5):
        engine.submit(ask(str(n), [n + 1], 3))
    ends = [e.request_id for e in drained(engine) if isinstance(e, Finished)]
    assert ends == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(("bad", "kind"), [([913], "usage"), ([999], "bug"), ([977] * 9, "space")])
def test_what_cannot_be_answered_fails_alone(bad, kind, caplog):
    engine = SlotEngine(Numbers(3))
    good = ask("good", [1, 2, 3], 8)
    engine.submit(good)
    engine.submit(ask("bad", bad))
    events = drained(engine)
    failed = [e for e in events if isinstance(e, Failed)]
    assert [(e.request_id, e.kind) for e in failed] == [("bad", kind)]
    assert tokens(events, "good") == alone(good)
    caplog.clear()


def test_no_memory_while_decoding_costs_the_youngest():
    model = Numbers(3)
    model.no_memory = {3}
    engine = SlotEngine(model)
    requests = [ask(str(n), [n + 1], 12) for n in range(3)]
    for request in requests:
        engine.submit(request)
    events = drained(engine)
    assert [e.request_id for e in events if isinstance(e, Failed)] == ["2"]
    for request in requests[:2]:
        assert tokens(events, request.request_id) == alone(request)


def test_the_context_ends_an_answer():
    engine = SlotEngine(Numbers(1))
    engine.submit(ask("a", [1] * 60, 50))
    events = drained(engine)
    end = next(e for e in events if isinstance(e, Finished))
    assert end.reason == "length"
    assert end.usage.prompt_tokens + end.usage.completion_tokens == engine.info.context_tokens


def test_a_stop_string_across_tokens_ends_the_answer():
    whole = alone(ask("a", [5, 6], 12))
    text = "".join(f" {t}" for t in whole).removeprefix(" ")
    stop = text[len(text) // 2 - 2 :][:5]
    engine = SlotEngine(Numbers(1))
    engine.submit(ask("a", [5, 6], 12, stop=(stop,)))
    events = drained(engine)
    said = "".join(e.text for e in events if isinstance(e, Delta))
    assert said == text[: text.index(stop)]
    assert next(e for e in events if isinstance(e, Finished)).reason == "stop"
