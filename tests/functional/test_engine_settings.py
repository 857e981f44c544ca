"""What a request sets, honoured by a real model's engine, and none of its neighbour's business."""

import json
import re

import pytest

from llava_pack.engine.port import Delta, Engine, Event, Failed, Finished, Message, Request
from llava_pack.engine.sampling import Grammar, GrammarError, Sampling
from llava_pack.format.errors import UsageError
from tests.support.checkpoints import TinyLlava, make_llava, make_tower

pytestmark = pytest.mark.engine
SCHEMA = '{"type":"object","properties":{"n":{"type":"integer","maximum":99,"minimum":0}},"required":["n"],"additionalProperties":false}'


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    from llava_pack.engine.loading.load import load_engine

    folder = tmp_path_factory.mktemp("checkpoint")
    spec = TinyLlava(hidden=64, inner=96)
    make_tower(folder / "clip-tiny", spec.tower)
    model_dir = make_llava(folder / "llava-v1-tiny", spec)
    return load_engine(model_dir, precision="fp32", slots=4, context_tokens=700)


def ask(name: str, **given: object) -> Request:
    sampling = Sampling(**{"max_tokens": 40, **given})  # type: ignore[arg-type]
    return Request(request_id=name, messages=(Message("user", ("hello",)),), sampling=sampling)


def answers(engine: Engine, *asked: Request) -> dict[str, list[Event]]:
    for one in asked:
        engine.submit(one)
    events: dict[str, list[Event]] = {one.request_id: [] for one in asked}
    while not engine.idle:
        for event in engine.step():
            events[event.request_id].append(event)
    return events


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def ids(events: list[Event]) -> list[int]:
    return [i for event in events if isinstance(event, Delta) for i in event.token_ids]


def reason(events: list[Event]) -> str:
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1].reason


def test_answers_in_one_batch_are_held_to_different_grammars(engine):
    alone = answers(engine, ask("plain"))["plain"]
    together = answers(
        engine,
        ask("plain"),
        ask("schema", grammar=Grammar("json_schema", SCHEMA), temperature=1.5, seed=1),
        ask("choice", grammar=Grammar("choice", '["yes", "no"]')),
        ask("regex", grammar=Grammar("regex", "[a-z]{3} [0-9]{2}"), logprobs=2),
    )
    assert ids(together["plain"]) == ids(alone)
    assert 0 <= json.loads(text(together["schema"]))["n"] <= 99
    assert text(together["choice"]) in {"yes", "no"}
    assert re.fullmatch("[a-z]{3} [0-9]{2}", text(together["regex"]))
    assert {reason(events) for name, events in together.items() if name != "plain"} == {"stop"}
    deltas = [event for event in together["regex"] if isinstance(event, Delta)]
    assert all(event.odds[0].chosen.token_id == event.token_ids[0] for event in deltas)
    assert all(event.odds[0].chosen.logprob < 0 for event in deltas)


def test_a_seed_gives_the_same_held_answer_again(engine):
    held = {"grammar": Grammar("json_schema", '{"type":"string","maxLength":20}'), "seed": 5}
    first, second = (
        answers(engine, ask("a", temperature=1.0, **held), *others)["a"]
        for others in ((), (ask("b", temperature=2.0), ask("c", grammar=Grammar("regex", "a{9}"))))
    )
    assert ids(first) == ids(second)


def test_an_answer_that_is_cut_by_its_length_says_so(engine):
    events = answers(engine, ask("a", max_tokens=3, grammar=Grammar("regex", "[a-z]{30}")))["a"]
    assert (reason(events), len(ids(events))) == ("length", 3)


def test_a_template_s_own_stop_does_not_cut_what_is_held(engine):
    asked = ask("a", grammar=Grammar("choice", '["a ### b"]'))
    v0 = Request(
        request_id="a", messages=asked.messages, sampling=asked.sampling, conv_mode="llava_v0"
    )
    assert text(answers(engine, v0)["a"]) == "a ### b"


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"grammar": Grammar("regex", "(")}, GrammarError, "unclosed"),
        ({"stop_token_ids": (99_999,)}, UsageError, "no token 99999; expected ids from 0 to"),
        ({"logit_bias": ((-1, 1.0),)}, UsageError, "no token -1"),
    ],
)
def test_what_cannot_be_done_fails_alone(engine, given, error, says):
    events = answers(engine, ask("bad", **given), ask("good"))
    (failed,) = events["bad"]
    assert isinstance(failed, Failed)
    assert type(failed.error()) is error
    assert says in failed.message
    assert ids(events["good"]) == ids(answers(engine, ask("good"))["good"])


def test_ends_are_moved_as_asked(engine):
    plain = ids(answers(engine, ask("a"))["a"])
    token = plain[2]
    ended = answers(engine, ask("a", stop_token_ids=(token,)))["a"]
    assert (ids(ended), reason(ended)) == (plain[: plain.index(token) + 1], "stop")
    biased = answers(engine, ask("a", logit_bias=((2, 100.0),)))["a"]
    assert (ids(biased), reason(biased)) == ([2], "stop")
    later = answers(engine, ask("a", logit_bias=((2, 100.0),), min_tokens=5))["a"]
    assert (len(ids(later)), ids(later)[-1], reason(later)) == (6, 2, "stop")
    never = answers(engine, ask("a", logit_bias=((2, 100.0),), ignore_eos=True, max_tokens=9))["a"]
    assert (ids(never), reason(never), text(never)) == ([2] * 9, "length", "")


def test_a_stop_string_counts_once_there_are_enough_tokens(engine):
    asked = {"grammar": Grammar("choice", '["aXbXc"]'), "stop": ("X",)}
    assert text(answers(engine, ask("a", **asked))["a"]) == "a"
    tokens = len(ids(answers(engine, ask("a", **asked))["a"]))
    assert text(answers(engine, ask("a", **asked, min_tokens=tokens))["a"]) == "aXb"


def test_penalties_and_kept_tokens_change_the_answer(engine):
    plain = ids(answers(engine, ask("a"))["a"])
    once = ids(answers(engine, ask("a", presence_penalty=2.0, repetition_penalty=10.0))["a"])
    assert len(set(once)) > len(set(plain))
    only = answers(engine, ask("a", temperature=2.0, seed=1, top_k=1))["a"]
    assert ids(only) == plain
    assert ids(answers(engine, ask("a", temperature=2.0, seed=1, min_p=1.0))["a"]) == plain
    assert ids(answers(engine, ask("a", temperature=2.0, seed=1))["a"]) != plain
