"""How tokens are chosen: as transformers does it, row by row, and as nobody's neighbour sees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.engine.sampling import SETTINGS, Grammar, Sampling
from llava_pack.format.errors import UsageError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.engine

WORDS = 40
ENDS = (3, 7)


def logits(seed: int) -> "torch.Tensor":
    return torch.randn(WORDS, generator=torch.Generator().manual_seed(seed)) * 4


def chooser(prompt=(), held=None, **given):
    from llava_pack.engine.batching.sampling import TokenChooser

    return TokenChooser(Sampling(**given), prompt=prompt, ends=ENDS, words=WORDS, held=held)


@given(
    seed=st.integers(0, 1000),
    top_k=st.integers(1, WORDS + 5),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0.0, 1.0),
)
def test_what_may_be_drawn_is_what_transformers_draws_from(seed, top_k, top_p, min_p):
    from transformers.generation.logits_process import (
        MinPLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    from llava_pack.engine.batching.sampling import kept

    steps = [MinPLogitsWarper(min_p), TopKLogitsWarper(top_k)]
    if top_p < 1:
        steps.append(TopPLogitsWarper(top_p))
    theirs = logits(seed)[None]
    for step in steps:
        theirs = step(None, theirs)
    ours = kept(logits(seed), Sampling(temperature=1, top_k=top_k, top_p=top_p, min_p=min_p))
    assert torch.equal(ours, theirs[0])


@given(
    seed=st.integers(0, 1000),
    by=st.floats(0.1, 10),
    prompt=st.lists(st.integers(-200, WORDS - 1), max_size=9),
    answer=st.lists(st.integers(0, WORDS - 1), max_size=9),
)
def test_repetition_is_punished_as_transformers_does(seed, by, prompt, answer):
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    one = chooser(prompt, repetition_penalty=by)
    for token_id in answer:
        one.take(token_id)
    ours = logits(seed)
    one.change(ours)
    ids = torch.tensor([[i for i in [*prompt, *answer] if i >= 0]], dtype=torch.long)
    theirs = logits(seed)[None]
    if ids.numel():
        theirs = RepetitionPenaltyLogitsProcessor(by)(ids, theirs)
    assert torch.allclose(ours, theirs[0])


def test_penalties_count_what_stands_in_the_answer():
    one = chooser((5, 5, 6), frequency_penalty=0.5, presence_penalty=1.5)
    for token_id in (5, 5, 9):
        one.take(token_id)
    changed = torch.zeros(WORDS)
    one.change(changed)
    assert {i: float(v) for i, v in enumerate(changed) if v} == {5: -2.5, 9: -2.0}


def test_a_bias_forces_and_forbids():
    from llava_pack.engine.batching.sampling import choose

    best = int(logits(1).argmax())
    one = chooser(logit_bias=((best, -100.0), (11, 100.0)))
    assert choose(logits(1)[None], [one])[0].token_id == 11


def test_no_setting_leaves_a_neighbour_without_its_answer():
    from llava_pack.engine.batching.sampling import choose

    cold = chooser(temperature=1e-36, frequency_penalty=-2.0)
    for _ in range(400):
        (chosen,) = choose(logits(3)[None].clone(), [cold])
        assert chosen.refused is None
    broken = torch.stack([torch.full((WORDS,), float("nan")), logits(3)])
    first, second = choose(broken, [chooser(temperature=1.0, seed=1), chooser()])
    assert isinstance(first.refused, UsageError)
    assert second.token_id == int(logits(3).argmax())


def test_an_answer_does_not_end_before_it_may():
    from llava_pack.engine.batching.sampling import choose

    scores = torch.zeros(1, WORDS)
    scores[0, 3], scores[0, 7], scores[0, 20] = 9, 8, 7
    one = chooser(min_tokens=2)
    assert [choose(scores, [one])[0].token_id for _ in range(3)] == [20, 20, 3]


def test_a_neighbour_s_settings_change_nothing():
    from llava_pack.engine.batching.sampling import choose

    rows = torch.stack([logits(seed) for seed in range(4)])

    def tokens(*others):
        plain, drawn = chooser(), chooser(temperature=0.9, seed=4, logprobs=2)
        first, second, *_ = choose(rows, [plain, drawn, *others])
        return first, second

    alone = tokens()
    assert tokens(chooser(repetition_penalty=3.0, prompt=(1, 2)), chooser(min_tokens=4)) == alone
    held = _Held([5, 6])
    (_, _, third, _) = choose(
        rows, [chooser(), chooser(temperature=0.9, seed=4), chooser(held=held), chooser()]
    )
    assert third.token_id in {5, 6}
    assert third.last
    assert tokens(chooser(held=_Held([5])), chooser()) == alone


def test_odds_that_are_told_are_the_models_own():
    from llava_pack.engine.batching.sampling import choose

    (chosen,) = choose(logits(2)[None], [chooser(held=_Held([8]), logprobs=1)])
    odds = logits(2).log_softmax(dim=-1)
    assert (chosen.token_id, chosen.logprob) == (8, pytest.approx(float(odds[8])))
    assert chosen.likeliest[0][0] == int(odds.argmax())


class _Held:
    """What holds an answer to one token out of some."""

    def __init__(self, ids: list[int]) -> None:
        self._ids, self.ended = ids, False

    def allowed(self):
        import numpy as np

        return np.isin(np.arange(WORDS), self._ids)

    def take(self, token_id: int) -> None:
        self.ended = token_id in self._ids


@pytest.mark.parametrize(
    "fields",
    [
        {"top_k": -1},
        {"min_p": 1.1},
        {"min_p": float("nan")},
        {"repetition_penalty": 1e-300},
        {"repetition_penalty": 11.0},
        {"frequency_penalty": 2.1},
        {"presence_penalty": -2.1},
        {"presence_penalty": float("nan")},
        {"min_tokens": 513},
        {"min_tokens": -1},
        {"stop_token_ids": (1,) * 65},
        {"logit_bias": ((1, 101.0),)},
        {"logit_bias": ((1, float("nan")),)},
        {"logit_bias": ((1, 1.0),) * 1025},
    ],
)
def test_what_is_out_of_range_is_refused(fields):
    with pytest.raises(UsageError, match=next(iter(fields))):
        Sampling(**fields)


def test_settings_come_back_from_the_wire():
    import json

    every = Sampling(
        temperature=1, top_p=0.5, seed=3, max_tokens=9, stop=("a",), logprobs=0, top_k=4, min_p=0.1,
        repetition_penalty=1.1, frequency_penalty=1, presence_penalty=-1, logit_bias=((1, 2.0),),
        min_tokens=2, ignore_eos=True, stop_token_ids=(5,), grammar=Grammar("regex", "a"),
    )  # fmt: skip
    assert set(every.given) == set(SETTINGS)
    assert Sampling.of(json.loads(json.dumps(dict(every.given)))) == every
    assert Sampling().given == {}
    with pytest.raises(TypeError):
        Sampling.of({"top_n": 1})
