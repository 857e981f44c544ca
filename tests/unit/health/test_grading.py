from dataclasses import replace

import pytest

from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.health.grading import compare, judge, worst

KNOWN = KnownAnswer(name="red", picture_png="", prompt="What?", contains=("red",))
OWN = Reference(
    answer="red",
    precision="nf4",
    made_on="cpu AVX512 bf16, torch 2.13.0",
    recorded="build",
    text="A red circle",
    prompt="p",
    words="w",
    pixels="x",
    tower=("2", "1", "-1"),
    projector=("4", "1", "-1"),
    token_ids=(1, 2, 3),
    likeliest=((1, 9), (2, 8), (3, 7)),
    micronats=((100, 5_000_000), (100, 40_000), (100, 5_000_000)),
)
ELSEWHERE = "NVIDIA L4, torch 2.13.0"


def moved(micronats, **changes):
    """The same answer with every log-probability moved."""
    return replace(
        OWN,
        micronats=tuple(tuple(one + micronats for one in step) for step in OWN.micronats),
        **changes,
    )


def levels(seen, references=(OWN,), known=KNOWN):
    found = judge(known, references, seen)
    return found.level, found.stage


def test_the_same_is_exact():
    assert levels(OWN) == ("exact", "")
    assert judge(KNOWN, [OWN], OWN).reference == "build"


@pytest.mark.parametrize(
    ("seen", "level"),
    [
        (moved(10_000), ("equivalent", "")),
        (moved(30_000), ("degraded", "model")),
        (moved(30_000, made_on=ELSEWHERE), ("equivalent", "")),
        (moved(700_000, made_on=ELSEWHERE), ("degraded", "model")),
    ],
)
def test_odds_may_differ_by_rounding_and_more_on_another_device(seen, level):
    assert levels(seen) == level


def test_another_token_is_rounding_only_where_the_model_was_not_sure():
    unsure = replace(OWN, token_ids=(1, 8, 3), likeliest=((1, 9), (8, 2), (3, 7)))
    sure = replace(OWN, token_ids=(9, 2, 3))
    assert levels(unsure) == ("equivalent", "")
    assert levels(sure) == ("degraded", "model")
    assert "the model was sure of it" in judge(KNOWN, [OWN], sure).why
    assert levels(replace(unsure, made_on=ELSEWHERE)) == ("equivalent", "")


def test_an_answer_that_ends_early_differs_there():
    short = replace(OWN, token_ids=(1,), likeliest=((1, 9),), micronats=((100, 5_000_000),))
    assert compare(OWN, short) == (0.0, 1)


def test_a_missing_word_is_broken_whatever_the_odds():
    assert levels(replace(OWN, text="A blue circle")) == ("broken", "")
    assert levels(replace(OWN, text="?", words="z")) == ("broken", "tokenizer")


@pytest.mark.parametrize(
    ("changes", "stage"),
    [
        ({"words": "z", "prompt": "z", "pixels": "z"}, "tokenizer"),
        ({"prompt": "z", "pixels": "z"}, "template"),
        ({"pixels": "z", "tower": ("9", "9", "9")}, "picture"),
        ({"tower": ("2", "1", "-1.1"), "projector": ("9", "9", "9")}, "vision tower"),
        ({"tower": ("2", "1")}, "vision tower"),
        ({"tower": ("nan", "1", "-1")}, "vision tower"),
        ({"projector": ("4", "1.1", "-1")}, "projector"),
    ],
)
def test_the_first_stage_that_differs_is_named(changes, stage):
    assert levels(replace(OWN, **changes)) == ("degraded", stage)


def test_features_may_differ_more_on_another_device():
    near = replace(OWN, tower=("2", "1.05", "-1"))
    assert levels(near) == ("degraded", "vision tower")
    assert levels(replace(near, made_on=ELSEWHERE)) == ("exact", "")


def test_what_was_not_traced_is_not_compared():
    assert levels(replace(OWN, words="", prompt="", pixels="", tower=(), projector=())) == (
        "exact",
        "",
    )


def test_an_answer_like_that_of_another_precision_is_named():
    int8 = moved(500_000, precision="int8")
    lying = moved(500_000)
    found = judge(KNOWN, [OWN, int8], lying)
    assert (found.level, found.stage) == ("degraded", "precision")
    assert "it reports nf4 but answers like int8" in found.why


def test_without_a_recording_in_its_precision_the_words_count():
    seen = replace(OWN, precision="fp16")
    assert levels(seen) == ("equivalent", "")
    assert levels(replace(seen, text="no")) == ("broken", "")
    assert judge(KNOWN, [OWN], seen).nats is None


def test_its_own_kind_of_device_is_taken_first():
    other = moved(300_000, made_on=ELSEWHERE)
    assert levels(OWN, (other, OWN)) == ("exact", "")


def test_spellings_of_one_word():
    known = replace(KNOWN, contains=("two|2",))
    assert levels(replace(OWN, text="I see 2 stars"), known=known) == ("exact", "")
    assert levels(replace(OWN, text="I see 3 stars"), known=known) == ("broken", "")


def test_the_worst_counts():
    found = [judge(KNOWN, [OWN], one) for one in (OWN, replace(OWN, text="?"), moved(10_000))]
    assert worst(found) == "broken"
    assert worst(found[:1]) == "exact"
    assert worst([]) == "broken"


def untold(answer, *, ids=True):
    """An answer as an engine of others tells it: no names of the likeliest tokens."""
    unnamed = replace(answer, likeliest=((),) * len(answer.micronats), made_on="vllm 0.33.0")
    return unnamed if ids else replace(unnamed, token_ids=())


@pytest.mark.parametrize("ids", [True, False])
def test_an_engine_that_names_no_tokens_is_equivalent_at_best(ids):
    assert levels(untold(OWN, ids=ids)) == ("equivalent", "")
    # rows of padding take a part of all probability, and every distance stays
    assert levels(untold(moved(900_000), ids=ids)) == ("equivalent", "")
    assert compare(OWN, untold(moved(900_000), ids=ids)) == (0.0, None)


@pytest.mark.parametrize("ids", [True, False])
def test_other_distances_are_another_model(ids):
    far = replace(OWN, micronats=tuple((one, two + 2_000_000) for one, two in OWN.micronats))
    assert levels(untold(far, ids=ids)) == ("degraded", "model")


def test_other_words_are_rounding_only_where_the_model_was_not_sure_of_one():
    other = untold(replace(OWN, text="A red square"), ids=False)
    assert levels(other) == ("equivalent", "")
    sure = replace(OWN, micronats=((100, 5_000_000),) * 3)
    assert levels(other, (sure,)) == ("degraded", "model")
    assert levels(replace(other, text="A blue one"), (OWN,))[0] == "broken"


def test_an_answer_without_odds_of_its_end_is_compared_as_far_as_it_goes():
    """SGLang tells none of the token that ends an answer."""
    short = untold(replace(OWN, micronats=OWN.micronats[:2], likeliest=OWN.likeliest[:2]))
    assert levels(short) == ("equivalent", "")


def test_ids_that_are_told_are_held_against_those_recorded():
    other = untold(replace(OWN, token_ids=(1, 2, 7)))
    assert compare(OWN, other)[1] == 2
    assert levels(other) == ("degraded", "model")
