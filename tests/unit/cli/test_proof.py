"""Known answers as the gate before ready: which are asked, and what of an answer decides."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pytest

from llava_pack.cli.server.proof import proof_of
from llava_pack.engine.measures import UNTOLD, Likely, Odds, Timings, Usage
from llava_pack.engine.port import Delta, Event, Finished, Request
from llava_pack.format.errors import ServeError
from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.format.manifest import Engine
from llava_pack.serve.supervision.plans import EnginePlan

SURE, UNSURE = (-0.01, -6.0), (-0.9, -1.0)
KNOWN = tuple(
    KnownAnswer(name=name, picture_png="", prompt=f"which? {name}", contains=(name,))
    for name in ("red", "blue")
)

Steps: TypeAlias = Sequence[Sequence[float]]


def plan(engine: Engine, *references: Reference) -> EnginePlan:
    return EnginePlan(
        name="llava",
        model_dir=Path("/m"),
        python=Path("/p"),
        engine=engine,
        version="0.33.0",
        precision="fp16",
        known_answers=KNOWN,
        references=references,
    )


def recorded(name: str, *odds: Sequence[float]) -> Reference:
    return Reference(
        answer=name,
        precision="fp16",
        made_on="cpu",
        recorded="build",
        text=name,
        prompt="p",
        words="w",
        pixels="",
        tower=(),
        projector=(),
        token_ids=tuple(range(len(odds))),
        likeliest=tuple((n, 99) for n in range(len(odds))),
        micronats=tuple(tuple(round(-one * 1e6) for one in step) for step in odds),
    )


class Answering:
    """An engine that says what it is given, with the odds of each token where there are some."""

    def __init__(self, texts: Mapping[str, str], odds: Steps = (), *, ids: bool = True) -> None:
        self.texts, self.odds, self.ids = texts, odds, ids
        self.asked: list[str] = []

    async def __call__(self, request: Request) -> AsyncGenerator[Event, None]:
        name = request.request_id
        self.asked.append(name)
        steps = tuple(
            Odds(
                Likely(number, b"x", step[0]),
                tuple(
                    Likely((number, 99)[rank] if self.ids else UNTOLD, b"x", logprob)
                    for rank, logprob in enumerate(step)
                ),
            )
            for number, step in enumerate(self.odds)
        )
        tokens = tuple(range(len(steps))) if self.ids else ()
        yield Delta(name, self.texts[name], tokens, steps)
        yield Finished(name, "stop", Usage(1, 1), Timings(0, 0, 0))


RIGHT = {"red": "Red.", "blue": "blue"}


def proved(of: EnginePlan, engine: Answering) -> None:
    proof = proof_of(of)
    assert proof is not None
    asyncio.run(_awaited(proof(engine)))


async def _awaited(proving: object) -> None:
    await proving  # type: ignore[misc] # an awaitable, as `Proof` says


def test_our_own_engine_is_asked_one_and_an_engine_of_others_all() -> None:
    own, other = Answering(RIGHT), Answering(RIGHT)
    proved(plan("transformers"), own)
    proved(plan("vllm"), other)
    assert (own.asked, other.asked) == (["red"], ["red", "blue"])


@pytest.mark.parametrize(
    ("engine", "hint"),
    [("transformers", "health --deep"), ("sglang", "--accept-answer red")],
)
def test_other_words_are_no_start(engine: Engine, hint: str) -> None:
    with pytest.raises(ServeError, match="does not match") as caught:
        proved(plan(engine), Answering({"red": "green", "blue": "blue"}))
    assert hint in caught.value.hint


def warned(caplog: pytest.LogCaptureFixture, then: Steps, now: Steps, *, ids: bool) -> list[str]:
    """Return what is told of right words whose odds were recorded, and are now, so."""
    references = [recorded(one.name, *then) for one in KNOWN]
    with caplog.at_level(logging.WARNING):
        proved(plan("vllm", *references), Answering(RIGHT, now, ids=ids))
    return [one.getMessage() for one in caplog.records]


@pytest.mark.parametrize("ids", [True, False], ids=["it tells ids", "it tells none"])
def test_odds_as_they_were_recorded_say_nothing(
    ids: bool,  # noqa: FBT001 - a parameter of the test
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert not warned(caplog, (SURE, UNSURE), (SURE, UNSURE), ids=ids)


@pytest.mark.parametrize("ids", [True, False], ids=["it tells ids", "it tells none"])
def test_right_words_with_other_odds_are_told_in_the_log(
    ids: bool,  # noqa: FBT001 - a parameter of the test
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = warned(caplog, (SURE, SURE), (UNSURE, UNSURE), ids=ids)
    assert [one.startswith("llava: known answer") for one in told] == [
        True,
        True,
    ]
