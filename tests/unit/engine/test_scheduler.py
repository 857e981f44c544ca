"""The scheduler over a model of numbers: rows stay right whatever joins, ends or is cancelled.

The model here writes each row's tokens into a table, as a cache would, and answers with a number
made from everything in the row. A row that is mixed up changes the answer.
"""

import random
from collections.abc import Sequence

import pytest

from llava_pack.engine.choice import Choice
from llava_pack.engine.port import (
    Delta,
    EngineInfo,
    Event,
    Failed,
    Finished,
    Message,
    Request,
    Sampling,
)
from llava_pack.engine.prompt import Prompt
from llava_pack.engine.scheduler import SlotEngine
from llava_pack.format.errors import SpaceError, UsageError

CHUNK = 4


class Numbers:
    """A model with rows: the next token is a hash of the row."""

    chunk_tokens = CHUNK

    def __init__(self, slots: int) -> None:
        self.info = EngineInfo(
            model="numbers", precision="fp32", device="cpu", context_tokens=64, slots=slots,
            conv_mode="plain", image_tokens=0,
        )  # fmt: skip
        self.rows: list[list[int]] = [[-1] * 64 for _ in range(slots)]
        self.no_memory: set[int] = set()
        self.decoded: list[int] = []

    def write(self, request: Request) -> Prompt:
        ids = tuple(int(word) for word in request.messages[0].text.split())
        if 13 in ids:
            raise UsageError("13 is unlucky")
        return Prompt(ids, (), request.sampling.stop, frozenset({0}))

    def tokenize(self, request: Request) -> tuple[int, ...]:
        return self.write(request).ids

    def look(self, prompt: Prompt) -> tuple[int, ...]:
        if 99 in prompt.ids:
            raise ValueError("a bug")
        return prompt.ids

    def chooser(self, sampling: Sampling) -> random.Random:
        return random.Random(sampling.seed)

    def prefill(
        self, row: int, embeddings: tuple[int, ...], begin: int, chooser: object
    ) -> Choice | None:
        if 77 in embeddings and begin:
            raise SpaceError("no memory")
        end = min(begin + CHUNK, len(embeddings))
        self.rows[row][begin:end] = embeddings[begin:end]
        return self._next(row, end) if end == len(embeddings) else None

    def decode(
        self, tokens: Sequence[int], lengths: Sequence[int], choosers: object
    ) -> list[Choice]:
        self.decoded.append(len(tokens))
        if len(tokens) in self.no_memory:
            raise SpaceError("no memory")
        for row, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            self.rows[row][length] = token
        return [self._next(row, length + 1) for row, length in enumerate(lengths)]

    def move(self, source: int, target: int, length: int) -> None:
        self.rows[target] = self.rows[source][:length] + [-2] * (64 - length)

    def token_bytes(self, token_id: int) -> bytes:
        return f" {token_id}".encode()

    def _next(self, row: int, length: int) -> Choice:
        seen = self.rows[row][:length]
        assert all(value >= 0 for value in seen), f"row {row} holds {seen}"
        return Choice(sum((place + 1) * value for place, value in enumerate(seen)) % 97 + 1)


def ask(name: str, ids: Sequence[int], max_tokens: int = 10, **sampling: object) -> Request:
    text = " ".join(map(str, ids))
    return Request(
        request_id=name,
        messages=(Message("user", (text,)),),
        sampling=Sampling(max_tokens=max_tokens, **sampling),  # type: ignore[arg-type]
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


@pytest.mark.parametrize("seed", range(20))
def test_any_mix_gives_what_each_gets_alone(seed):
    chance = random.Random(seed)
    requests = [
        ask(
            f"r{n}",
            [chance.randrange(1, 12) for _ in range(chance.randrange(1, 20))],
            chance.randrange(1, 20),
        )
        for n in range(15)
    ]
    engine = SlotEngine(Numbers(chance.randrange(1, 5)))
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
    for request in requests:
        got, want = tokens(events, request.request_id), alone(request)
        ends = [e for e in events if isinstance(e, Finished) and e.request_id == request.request_id]
        assert len(ends) == 1
        if ends[0].reason == "cancelled":
            assert request.request_id in cancelled
            assert got == want[: len(got)]
        else:
            assert got == want


def test_prefill_goes_on_while_others_decode():
    engine = SlotEngine(Numbers(2))
    engine.submit(ask("short", [1], 30))
    engine.step()
    engine.submit(ask("long", [2] * 40, 5))
    events: list[Event] = []
    while not tokens(events, "long"):
        before = len(tokens(events, "short"))
        events += engine.step()
        assert len(tokens(events, "short")) == before + 1, "a step passed without a token"


def test_first_come_first_served():
    engine = SlotEngine(Numbers(1))
    for n in range(5):
        engine.submit(ask(str(n), [n + 1], 3))
    ends = [e.request_id for e in drained(engine) if isinstance(e, Finished)]
    assert ends == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(("bad", "kind"), [([13], "usage"), ([99], "bug"), ([77] * 9, "space")])
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
