"""The engine port's contract, run on every engine that we have."""

import pytest

from llava_pack.engine.port import (
    ContextLengthError,
    Delta,
    Engine,
    Event,
    Failed,
    Finished,
    Message,
    Picture,
    Request,
)
from llava_pack.engine.sampling import Sampling
from llava_pack.format.errors import UsageError
from tests.support.engine import EchoEngine

RED = Picture(4, 2, bytes((250, 10, 10)) * 8)


@pytest.fixture(scope="module", params=["echo", pytest.param("llava", marks=pytest.mark.engine)])
def engine(request, tmp_path_factory) -> Engine:
    if request.param == "echo":
        return EchoEngine(slots=2, context_tokens=200)
    from llava_pack.engine.loading.load import load_engine
    from tests.support.checkpoints import TinyLlava, make_llava, make_tower

    folder = tmp_path_factory.mktemp("checkpoint")
    spec = TinyLlava(hidden=64, inner=96)
    make_tower(folder / "clip-tiny", spec.tower)
    model_dir = make_llava(folder / "llava-v1-tiny", spec)
    return load_engine(model_dir, precision="fp32", slots=2, context_tokens=700)


def ask(name: str, *parts: str | Picture, mode: str | None = None, **sampling: object) -> Request:
    return Request(
        request_id=name,
        messages=(Message("user", parts or ("what is in the picture?",)),),
        sampling=Sampling(**{"max_tokens": 12, **sampling}),  # type: ignore[arg-type]
        conv_mode=mode,
    )


def finish(engine: Engine, max_steps: int = 500) -> list[Event]:
    events: list[Event] = []
    for _ in range(max_steps):
        if engine.idle:
            return events
        events += engine.step()
    raise AssertionError(f"still running after {max_steps} steps")


def text_of(events: list[Event], name: str) -> str:
    return "".join(e.text for e in events if isinstance(e, Delta) and e.request_id == name)


def end_of(events: list[Event], name: str) -> Finished | Failed:
    ends = [e for e in events if isinstance(e, Finished | Failed) and e.request_id == name]
    assert len(ends) == 1, f"{name} ended {len(ends)} times"
    mine = [e for e in events if e.request_id == name]
    assert mine[-1] is ends[0], "something came after the end"
    return ends[0]


def finished(events: list[Event], name: str) -> Finished:
    end = end_of(events, name)
    assert isinstance(end, Finished), end
    return end


def test_a_request_ends_once_and_counts_its_tokens(engine):
    engine.submit(ask("a"))
    events = finish(engine)
    end = finished(events, "a")
    tokens = [t for e in events if isinstance(e, Delta) for t in e.token_ids]
    assert end.usage.completion_tokens == len(tokens) > 0
    assert end.usage.prompt_tokens > 0
    assert 0 <= end.timings.queued_s <= end.timings.first_token_s <= end.timings.total_s
    assert (engine.running, engine.waiting) == (0, 0)


def test_greedy_answers_repeat(engine):
    engine.submit(ask("a", "tell me", RED))
    engine.submit(ask("b", "tell me", RED))
    events = finish(engine)
    assert text_of(events, "a") == text_of(events, "b") != ""


def test_a_seed_repeats_its_answer(engine):
    sampled = {"temperature": 1.0, "seed": 7, "max_tokens": 16}
    engine.submit(ask("a", "hello", **sampled))
    engine.submit(ask("b", "hello", **sampled))
    events = finish(engine)
    assert text_of(events, "a") == text_of(events, "b")


def test_max_tokens_ends_with_length(engine):
    engine.submit(ask("a", max_tokens=2))
    end = finished(finish(engine), "a")
    assert (end.reason, end.usage.completion_tokens) == ("length", 2)


def test_text_ends_before_a_stop_string(engine):
    engine.submit(ask("a"))
    whole = text_of(finish(engine), "a")
    stop = whole[len(whole) // 2 :][:2]
    engine.submit(ask("b", stop=(stop,)))
    events = finish(engine)
    assert text_of(events, "b") == whole[: whole.index(stop)]
    assert finished(events, "b").reason == "stop"


def test_a_cancelled_request_frees_its_slot_at_the_next_step(engine):
    engine.submit(ask("a", max_tokens=100))
    engine.step()
    assert engine.running == 1
    engine.cancel("a")
    events = list(engine.step())
    assert finished(events, "a").reason == "cancelled"
    assert engine.idle


def test_a_waiting_request_can_be_cancelled(engine):
    for name in ("a", "b", "c"):
        engine.submit(ask(name))
    engine.cancel("c")
    events = finish(engine)
    assert finished(events, "c").reason == "cancelled"
    assert finished(events, "a").reason != "cancelled"


def test_cancelling_the_unknown_is_nothing(engine):
    engine.cancel("nobody")
    engine.submit(ask("a"))
    assert finished(finish(engine), "a").reason != "cancelled"


def test_more_requests_than_slots_are_all_answered(engine):
    names = [f"r{number}" for number in range(7)]
    for name in names:
        engine.submit(ask(name, max_tokens=3))
    events: list[Event] = []
    while not engine.idle:
        events += engine.step()
        assert engine.running <= engine.info.slots
    assert all(finished(events, name) for name in names)


@pytest.mark.parametrize(
    ("bad", "word", "kind"),
    [
        (ask("bad", mode="no_such_template"), "no_such_template", UsageError),
        (ask("bad", "word " * 400), "limit", ContextLengthError),
        (Request(request_id="bad", messages=()), "no message", UsageError),
        (Request(request_id="bad", messages=(Message("assistant", (RED,)),)), "user", UsageError),
    ],
    ids=["template", "too long", "empty", "not a person's picture"],
)
def test_a_bad_request_fails_alone(engine, bad, word, kind):
    engine.submit(ask("good"))
    engine.step()
    engine.submit(bad)
    events = finish(engine)
    end = end_of(events, "bad")
    assert isinstance(end, Failed)
    assert type(end.error()) is kind
    assert word in end.message
    assert finished(events, "good").usage.completion_tokens > 0


def test_an_answer_that_was_begun_is_continued_unless_a_new_turn_is_asked_for(engine):
    begun = (Message("user", ("what is it?",)), Message("assistant", ("It is",)))
    asked, continued, closed = (
        engine.tokenize(Request(request_id="r", messages=messages, new_turn=new_turn))
        for messages, new_turn in ((begun[:1], None), (begun, None), (begun, True))
    )
    assert continued[: len(asked)] == asked != continued
    assert closed[: len(continued)] == continued != closed
    engine.submit(Request(request_id="r", messages=begun, sampling=Sampling(max_tokens=3)))
    assert finished(finish(engine), "r").usage.prompt_tokens == len(continued)


def test_a_picture_counts_and_matters(engine):
    blue = Picture(4, 2, bytes((10, 10, 250)) * 8)
    engine.submit(ask("none", "colour?"))
    engine.submit(ask("red", "colour?", RED))
    engine.submit(ask("blue", "colour?", blue))
    events = finish(engine)
    without, with_one = (finished(events, name).usage.prompt_tokens for name in ("none", "red"))
    assert with_one - without >= engine.info.image_tokens
    assert text_of(events, "red") != text_of(events, "blue")


def test_odds_belong_to_the_tokens(engine):
    engine.submit(ask("a", "tell me", max_tokens=6))
    plain = finish(engine)
    engine.submit(ask("a", "tell me", max_tokens=6, logprobs=3))
    engine.submit(ask("b", "tell me", max_tokens=6, logprobs=0))
    events = finish(engine)
    assert all(not e.odds for e in plain if isinstance(e, Delta))
    assert text_of(events, "a") == text_of(plain, "a")
    for event in (e for e in events if isinstance(e, Delta)):
        (odds,) = event.odds
        assert odds.chosen.token_id == event.token_ids[0]
        assert odds.chosen.logprob <= 0
        if event.request_id == "b":
            assert odds.likeliest == ()
            continue
        assert odds.likeliest[0] == odds.chosen  # greedy
        logprobs = [one.logprob for one in odds.likeliest]
        assert (len(logprobs), sorted(logprobs, reverse=True)) == (3, logprobs)


def test_a_prompt_is_tokenized_as_it_is_counted(engine):
    asked = ask("a", RED, "what is it?", max_tokens=2)
    ids = engine.tokenize(asked)
    engine.submit(asked)
    assert len(ids) == finished(finish(engine), "a").usage.prompt_tokens
    assert ids.count(-200) == engine.info.image_tokens
    assert len(engine.tokenize(ask("long", "word " * 400))) > 400
    with pytest.raises(UsageError):
        engine.tokenize(ask("bad", mode="no_such_template"))


def test_a_trace_tells_where_two_questions_part(engine):
    red, other = engine.trace(ask("a", RED, "what is it?")), engine.trace(ask("b", RED, "and now?"))
    green = Picture(RED.width, RED.height, bytes((0, 255, 0)) * (RED.width * RED.height))
    seen = engine.trace(ask("c", green, "what is it?"))
    assert red == engine.trace(ask("d", RED, "what is it?"))
    assert red.words == seen.words != other.words
    assert red.prompt == seen.prompt != other.prompt
    assert red.pixels == other.pixels != seen.pixels
    assert red.tower == other.tower != seen.tower
    assert red.projector == other.projector != seen.projector
    blind = engine.trace(ask("e", "what is it?"))
    assert (blind.words, blind.pixels, blind.tower) == (red.words, "", ())


def test_work_is_counted(engine):
    before = engine.work
    engine.submit(ask("a", "count this", max_tokens=4))
    engine.step()
    during = engine.work
    assert 0 < during.kv_usage < 1
    usage = finished(finish(engine), "a").usage
    computed = engine.work.prefill_tokens - before.prefill_tokens
    assert computed == usage.prompt_tokens - usage.cached_tokens
    assert engine.work.kv_tokens == 0
