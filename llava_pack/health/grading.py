"""How near an answer is to the one that was recorded, and where it began to differ. Pure.

Greedy answers are not the same bits on every device and in every batch, so the tokens alone say
little. What counts is the margin: where the recorded model was sure of a token, another one is no
rounding; where two tokens were nearly as likely, it may be. Up to there, the odds of the
likeliest tokens must agree within a bound that depends on the precision, and tightly where device
kind and libraries are those of the recording.

An engine of others may not tell which tokens the likeliest ones are, and may give a part of all
probability to rows of its vocabulary that stand for nothing. Then the distances between the
likeliest tokens are compared, rank by rank; and where it tells no ids at all, its words.

Source: docs/explanation/known-answers.md, with the measurements behind the bounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.format.precision import FACTS
from llava_pack.health.known_answers import grade

Level = Literal["exact", "equivalent", "degraded", "broken"]
LEVELS: tuple[Level, ...] = ("exact", "equivalent", "degraded", "broken")
Stage = Literal[
    "", "tokenizer", "template", "picture", "vision tower", "projector", "precision", "model"
]
_NATS = 1e-6
_EXACT_NATS = 1e-3
_SAME_KIND_NATS = 0.02
_SAME_KIND_MARGIN = 0.05
_SAME_KIND_FEATURES = 1e-3
_FEATURES = 0.05
_NEARER = 3.0


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What became of one known answer."""

    name: str
    level: Level
    text: str
    """The model's own words."""
    stage: Stage = ""
    """Where it began to differ; empty where nothing is wrong or the place is not known."""
    why: str = ""
    nats: float | None = None
    """Mean difference of log-probabilities; None without a recorded answer."""
    reference: str = ""
    """Who recorded what it was held against: build, install or recipe."""


def judge(known: KnownAnswer, references: Sequence[Reference], seen: Reference) -> Judgement:
    """Return how an answer compares with what was recorded.

    Args:
        known: the question, with the words that must be in the answer.
        references: what was recorded for it, in any precision.
        seen: the answer; stages that were not traced are empty and not compared.
    """
    floor = grade(known, seen.text)
    recorded = [one for one in references if one.answer == known.name]
    own = _own(recorded, seen)
    if own is None:
        why = floor.why if not floor.ok else f"nothing was recorded in {seen.precision}: words only"
        level: Level = "equivalent" if floor.ok else "broken"
        return Judgement(name=known.name, level=level, text=seen.text, why=why)
    same = _same_kind(own, seen)
    nats, split = compare(own, seen)
    stage, why = _fault(own, seen, same=same)
    if not stage:
        stage, why = _odds(recorded, own, seen, nats=nats, split=split)
    level = "equivalent"
    if not floor.ok:
        level, why = "broken", f"{floor.why}{f'; {why}' if why else ''}"
    elif stage:
        level = "degraded"
    elif split is None and nats <= _EXACT_NATS and _told(own) and _told(seen):
        level = "exact"
    return Judgement(
        name=known.name,
        level=level,
        text=seen.text,
        stage=stage,
        why=why,
        nats=nats,
        reference=own.recorded,
    )


def compare(own: Reference, seen: Reference) -> tuple[float, int | None]:
    """Return the mean difference of log-probabilities in nats, and the first other token.

    Only steps before the first other token are compared, and only tokens that both name. Where one
    of them does not name its tokens, it is the distances from the likeliest one that are compared.
    """
    split = _split(own, seen)
    most = min(len(own.micronats), len(seen.micronats))
    steps = most if split is None else min(split, most)
    by_name = _told(own) and _told(seen)
    differ = _by_name if by_name else _by_rank
    return _mean([differ(own, seen, index) for index in range(steps)]), split


def _split(own: Reference, seen: Reference) -> int | None:
    """Return the first step at which the tokens differ, None where none does."""
    if own.token_ids and seen.token_ids:
        for index, token in enumerate(own.token_ids):
            if index >= len(seen.token_ids) or seen.token_ids[index] != token:
                return index
        return None
    if own.text.strip() == seen.text.strip():
        return None
    # Nobody tells where: it is held to have been where the recorded model was least sure.
    margins = [_margin(own, step) for step in range(len(own.micronats))]
    return margins.index(min(margins)) if margins else 0


def _by_name(own: Reference, seen: Reference, index: int) -> float:
    one = dict(zip(own.likeliest[index], own.micronats[index], strict=True))
    two = dict(zip(seen.likeliest[index], seen.micronats[index], strict=True))
    return _mean([abs(one[key] - two[key]) * _NATS for key in one.keys() & two.keys()])


def _by_rank(own: Reference, seen: Reference, index: int) -> float:
    one, two = (sorted(each.micronats[index]) for each in (own, seen))
    pairs = list(zip(one, two, strict=False))[1:]
    return _mean([abs((a - one[0]) - (b - two[0])) * _NATS for a, b in pairs])


def _told(answer: Reference) -> bool:
    """Return whether an answer names its likeliest tokens."""
    pairs = zip(answer.likeliest, answer.micronats, strict=True)
    return all(len(ids) == len(odds) for ids, odds in pairs)


def worst(judgements: Sequence[Judgement]) -> Level:
    """Return the worst level of several answers; without any it is `broken`."""
    found = {one.level for one in judgements}
    return next((level for level in reversed(LEVELS) if level in found), "broken")


def _own(recorded: Sequence[Reference], seen: Reference) -> Reference | None:
    """Return what to hold an answer against: its own precision, its own kind of device first."""
    mine = [one for one in recorded if one.precision == seen.precision]
    return next((one for one in mine if one.made_on == seen.made_on), mine[0] if mine else None)


def _same_kind(own: Reference, seen: Reference) -> bool:
    return own.made_on == seen.made_on


def _fault(own: Reference, seen: Reference, *, same: bool) -> tuple[Stage, str]:
    """Return the first stage of the traces that differs, and how."""
    if seen.words and seen.words != own.words:
        return "tokenizer", "the question is tokenized differently than when it was recorded"
    if seen.prompt and seen.prompt != own.prompt:
        return "template", "the question's template differs from the recorded one"
    if seen.pixels and seen.pixels != own.pixels:
        return "picture", "the picture is preprocessed differently: size, padding colour or scale"
    if far := _apart(own.tower, seen.tower, same=same):
        return "vision tower", f"the tower's features differ, by {far}"
    if far := _apart(own.projector, seen.projector, same=same):
        return "projector", f"the tower's features match and the projector's differ, by {far}"
    return "", ""


def _apart(own: Sequence[str], seen: Sequence[str], *, same: bool) -> str:
    """Return how far two fingerprints are apart, empty where that is near enough."""
    if not seen or not own:
        return ""
    if len(seen) != len(own):
        return "its size"
    scale = max(abs(float(own[0])), 1e-12)
    far = max(abs(float(a) - float(b)) for a, b in zip(own, seen, strict=True)) / scale
    allowed = _SAME_KIND_FEATURES if same else _FEATURES
    return f"{100 * far:.2g} %" if not far <= allowed else ""


def _odds(
    recorded: Sequence[Reference],
    own: Reference,
    seen: Reference,
    *,
    nats: float,
    split: int | None,
) -> tuple[Stage, str]:
    """Return whether the odds are those that were recorded, and if not, what they are like."""
    same = _same_kind(own, seen)
    facts = FACTS.get(seen.precision, FACTS["nf4"])
    bound = _SAME_KIND_NATS if same else facts.rounding_nats
    margin = _SAME_KIND_MARGIN if same else facts.sure_nats
    sure = split is not None and _margin(own, split) >= margin
    if nats <= bound and not sure:
        return "", ""
    what = f"odds differ by {nats:.2g} nats, at most {bound:g} can be rounding"
    if sure and split is not None:
        what = f"token {split + 1} differs, although the model was sure of it; {what}"
    distances = {one.precision: compare(one, seen)[0] for one in recorded}
    nearest = min(distances, key=lambda name: distances[name])
    if nearest != seen.precision and nats > _NEARER * distances[nearest]:
        return "precision", f"it reports {seen.precision} but answers like {nearest}: {what}"
    return (
        "model",
        f"tokens, picture, tower and projector match, the language model does not: {what}",
    )


def _margin(own: Reference, step: int) -> float:
    odds = own.micronats[step] if step < len(own.micronats) else ()
    return (odds[1] - odds[0]) * _NATS if len(odds) > 1 else float("inf")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
