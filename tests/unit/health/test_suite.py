"""The deep test against servers that fail in one way each."""

import threading
from dataclasses import dataclass, field, replace

import pytest

from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.health.suite import AnswerSuite, Subject, question_count

KNOWN = tuple(
    KnownAnswer(name=name, picture_png="cmVk", prompt=prompt, contains=(word,))
    for name, prompt, word in (("colour", "What colour?", "red"), ("shape", "What shape?", "red"))
)
SLOTS = 3


@dataclass
class Server:
    """Answers every question with its own words and picture; `fault` says how it fails."""

    fault: str = ""
    asked: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    meet: threading.Barrier | None = None

    def observe(self, model, known):
        with self.lock:
            self.asked += 1
            self.at_once += 1
            number, crowd = self.asked, self.at_once
        try:
            return self._answer(known, number, crowd)
        finally:
            with self.lock:
                self.at_once -= 1

    def _answer(self, known, number, crowd):
        seed = sum(map(ord, known.prompt[-20:])) + (
            0 if self.fault == "blind" else sum(map(ord, known.picture_png))
        )
        if self.fault == "flaky" and number == 3:  # the first question, the second time
            seed += 1
        if self.fault == "crowd" and threading.current_thread() is not threading.main_thread():
            seed += 1
        if self.fault == "limit" and known.name == "long":
            return self._reference(known, ())
        return self._reference(known, (seed, seed + 7, 2))

    def _reference(self, known, ids):
        text = "blue" if self.fault == "wrong" else "a red circle"
        return Reference(
            answer=known.name,
            precision="nf4",
            made_on="here",
            recorded="now",
            text=text,
            prompt="p",
            words="w",
            pixels="",
            tower=(),
            projector=(),
            token_ids=ids,
            likeliest=tuple((one, one + 1) for one in ids),
            micronats=tuple((100, 9_000_000) for _ in ids),
        )

    def count(self, model, known):
        return 10 + len(known.prompt.split())


def run(fault="", references=(), known=KNOWN, accepted=()):
    subject = Subject(
        name="m",
        known=known,
        references=references,
        slots=SLOTS,
        context_tokens=512,
        accepted=frozenset(accepted),
    )
    suite = AnswerSuite(Server(fault), subject, lambda _: "YmxhY2s=", "llava-pack")
    return {finding.text.removeprefix("m: "): finding for finding in suite.run()}, suite


def bad(found):
    return [text for text, finding in found.items() if finding.level != "ok"]


def test_a_server_that_is_well():
    found, suite = run()
    assert bad(found) == []
    assert [one.level for one in suite.judgements] == ["equivalent", "equivalent"]
    assert "colour: equivalent, by its words only: nothing was recorded: 'a red circle'" in found
    assert "the same answers alone and in a batch of 3" in found
    assert "asked twice, the same answer: bit for bit" in found


def test_the_questions_are_counted_ahead():
    server = Server()
    subject = Subject(name="m", known=KNOWN, references=(), slots=SLOTS, context_tokens=512)
    list(AnswerSuite(server, subject, lambda _: "YmxhY2s=", "llava-pack").run())
    assert server.asked == question_count(len(KNOWN), SLOTS)


def test_who_recorded_is_named():
    recorded = [replace(Server().observe("m", one), recorded="install") for one in KNOWN]
    found, _ = run(references=recorded)
    assert "colour: exact, against what install recorded: 'a red circle'" in found


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("flaky", "the same question got two answers"),
        ("blind", "a black picture gets the same answer as the real one"),
        ("limit", "no answer with the context nearly full"),
    ],
)
def test_each_fault_is_named_alone(fault, text):
    found, _ = run(fault)
    assert bad(found) == [text]
    assert found[text].level == "fail"
    assert found[text].fix


def test_answers_that_change_in_a_crowd():
    found, _ = run("crowd")
    assert bad(found) == [
        "in a full batch, a different answer to colour, shape",
        "two questions about one picture change each other's answers",
    ]


def test_wrong_words_that_were_accepted_are_a_warning():
    found, _ = run("wrong", accepted=["shape"])
    levels = {text.partition(":")[0]: finding.level for text, finding in found.items()}
    assert (levels["colour"], levels["shape"]) == ("fail", "warn")
    [told] = [finding.why for text, finding in found.items() if text.startswith("shape: broken")]
    assert told.endswith("that was accepted when it was installed")


def test_wrong_words_are_broken():
    found, suite = run("wrong")
    assert [one.level for one in suite.judgements] == ["broken", "broken"]
    assert sum(finding.level == "fail" for finding in found.values()) == 2


def test_a_bundle_without_known_answers_proves_nothing():
    found, _ = run(known=())
    assert bad(found) == ["its bundle has no known answers: nothing proves that it sees"]
