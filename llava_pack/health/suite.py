"""The deep test of a model that serves: does it see, twice the same, in a crowd, and at its limit.

Everything is asked through the server's own port, as clients ask. What is found is judged by
`grading`; here is the order of the questions.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.health.grading import Judgement, compare, judge
from llava_pack.health.report import Finding, Layer

_REPEAT_NATS = 0.02
_CROWD_NATS = 0.6
"""What sharing a batch may do to odds: some kernels round by its size."""
_SPARE_TOKENS = 96
_WORD, _SAMPLE = "again ", 64


def question_count(known: int, slots: int) -> int:
    """Return how many questions the test asks.

    >>> question_count(4, 8)
    20
    """
    alone, again, crossed, blind, at_the_limit = known, 1, 4, 2, 1
    return alone + again + max(slots, known) + crossed + blind + at_the_limit


Black = Callable[[KnownAnswer], str]


class Asking(Protocol):
    """Asks one server."""

    def observe(self, model: str, known: KnownAnswer) -> Reference:
        """Return the answer with its odds and its trace."""

    def count(self, model: str, known: KnownAnswer) -> int:
        """Return the tokens of a question, those of its picture included."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The model that is tested."""

    name: str
    known: tuple[KnownAnswer, ...]
    references: tuple[Reference, ...]
    slots: int
    context_tokens: int
    accepted: frozenset[str] = frozenset()
    """Known answers whose words were missing at the installation, and were accepted."""


class AnswerSuite:
    """The questions to one model, in their order.

    Args:
        asking: how the server is asked.
        subject: the model.
        black: makes a black picture of a question's size, as base64 of a PNG.
        program: the installation's own command, for the hints.
    """

    def __init__(self, asking: Asking, subject: Subject, black: Black, program: str) -> None:
        self._asking = asking
        self._subject = subject
        self._black = black
        self._program = program
        self.judgements: list[Judgement] = []

    def run(self) -> Iterator[Finding]:
        """Yield a finding for each property."""
        for finding in self._findings():
            yield replace(finding, text=f"{self._subject.name}: {finding.text}")

    def _findings(self) -> Iterator[Finding]:
        known = self._subject.known
        if not known:
            yield Layer.ANSWERS.warn("its bundle has no known answers: nothing proves that it sees")
            return
        alone = [self._observe(one) for one in known]
        self.judgements = [
            judge(one, self._subject.references, seen)
            for one, seen in zip(known, alone, strict=True)
        ]
        yield from map(self._judged, self.judgements)
        yield self._repeated(known[0], alone[0])
        yield self._crowd(known, alone)
        yield self._crossed(known)
        if pictured := next((one for one in known if one.picture_png), None):
            yield self._blind(pictured)
        yield self._at_the_limit(known[0])

    def _judged(self, one: Judgement) -> Finding:
        against = "by its words only: nothing was recorded"
        if one.reference:
            against = f"against what {one.reference} recorded"
        stage = f" ({one.stage})" if one.stage else ""
        text = f"{one.name}: {one.level}{stage}, {against}: {one.text.strip()!r:.80}"
        if one.level in {"exact", "equivalent"}:
            return Layer.ANSWERS.ok(text)
        if one.name in self._subject.accepted and not one.stage:
            why = f"{one.why}; that was accepted when it was installed"
            return Layer.ANSWERS.warn(text, why=why, fix="correct the recipe's known answers")
        found = Layer.ANSWERS.warn if one.level == "degraded" else Layer.ANSWERS.fail
        fix = _FIXES.get(one.stage, _FIXES["model"])
        return found(text, why=one.why, fix=fix, code="integrity")

    def _repeated(self, known: KnownAnswer, first: Reference) -> Finding:
        again = self._observe(known)
        nats, split = compare(first, again)
        if split is None and nats <= _REPEAT_NATS:
            same = (
                "bit for bit" if first.micronats == again.micronats else f"within {nats:.1g} nats"
            )
            return Layer.ANSWERS.ok(f"asked twice, the same answer: {same}")
        return Layer.ANSWERS.fail(
            "the same question got two answers",
            why="memory with bit flips, or a card that is about to fail",
            fix="nvidia-smi -q -d ECC; then `llava-pack serve --device cpu` to compare",
            code="xid",
        )

    def _crowd(self, known: Sequence[KnownAnswer], alone: Sequence[Reference]) -> Finding:
        """Ask everything at once, until every slot is taken."""
        count = max(self._subject.slots, len(known))
        wanted = [index % len(known) for index in range(count)]
        with ThreadPoolExecutor(count) as pool:
            crowd = list(pool.map(lambda index: self._observe(known[index]), wanted))
        wrong = [
            known[index].name
            for index, seen in zip(wanted, crowd, strict=True)
            if self._other(known[index], alone[index], seen)
        ]
        if not wrong:
            return Layer.ANSWERS.ok(f"the same answers alone and in a batch of {count}")
        return Layer.ANSWERS.fail(
            f"in a full batch, a different answer to {', '.join(sorted(set(wrong)))}",
            why="concurrent requests affect each other",
            fix=f"{self._program} serve --slots 1, and report it: {self._program} support-bundle",
        )

    def _crossed(self, known: Sequence[KnownAnswer]) -> Finding:
        """Ask two things about one picture at once: neither may hear of the other."""
        pair = (known[0], replace(known[0], name="crossed", prompt=known[-1].prompt))
        apart = [self._observe(one) for one in pair]
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(self._observe, pair))
        other = [
            one for one, a, b in zip(pair, apart, together, strict=True) if self._other(one, a, b)
        ]
        if not other:
            return Layer.ANSWERS.ok("two questions about one picture do not affect each other")
        return Layer.ANSWERS.fail(
            "two questions about one picture change each other's answers",
            why="what one person asks can reach another",
            fix=f"stop serving, and report it: {self._program} support-bundle",
        )

    def _blind(self, known: KnownAnswer) -> Finding:
        seen = self._observe(known)
        black = self._observe(replace(known, picture_png=self._black(known)))
        nats, split = compare(seen, black)
        if split is not None or nats > _REPEAT_NATS:
            return Layer.ANSWERS.ok("a black picture gets a different answer")
        return Layer.ANSWERS.fail(
            "a black picture gets the same answer as the real one",
            why="the model does not look at pictures",
            fix=f"{self._program} health --deep; then install the bundle again",
            code="integrity",
        )

    def _at_the_limit(self, known: KnownAnswer) -> Finding:
        """Ask a question that fills the context but for an answer."""
        name, limit = self._subject.name, self._subject.context_tokens
        base = self._asking.count(name, known)
        more = replace(known, prompt=_WORD * _SAMPLE + known.prompt)
        each = (self._asking.count(name, more) - base) / _SAMPLE
        words = int((limit - base - _SPARE_TOKENS) / max(each, 0.1))
        if words < 1:
            return Layer.ANSWERS.ok(f"the context of {limit} tokens is too short to be filled")
        long = replace(known, name="long", prompt=_WORD * words + known.prompt)
        seen = self._observe(long)
        if seen.micronats and all(seen.micronats):
            return Layer.ANSWERS.ok(f"answers with a context of {limit} tokens nearly full")
        return Layer.ANSWERS.fail(
            "no answer with the context nearly full",
            why="long conversations will fail",
            fix=f"{self._program} serve --context {limit // 2}",
        )

    def _other(self, known: KnownAnswer, alone: Reference, seen: Reference) -> bool:
        """Return whether an answer is another one, and not the same in other rounding."""
        held = replace(alone, answer=known.name, made_on=f"{alone.made_on}, alone")
        open_known = replace(known, contains=())
        found = judge(open_known, [held], seen)
        return found.level == "degraded" or (found.nats or 0.0) > _CROWD_NATS

    def _observe(self, known: KnownAnswer) -> Reference:
        return self._asking.observe(self._subject.name, known)


_FIXES = {
    "tokenizer": "compare tokenizer files: llava-pack health --deep; then install the bundle again",
    "template": "leave out --conv-mode: the bundle sets its template",
    "picture": "compare preprocessor_config.json and the Pillow in the lock, then install again",
    "vision tower": "the tower's files differ, or the GPU is failing: install again; nvidia-smi -q",
    "projector": "the projector's weights differ, or memory is failing: install again",
    "precision": "serve in the recorded precision: llava-pack serve --precision P",
    "model": "llava-pack health --deep hashes the weights; then install the bundle again",
}
