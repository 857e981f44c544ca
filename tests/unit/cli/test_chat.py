"""A conversation in the terminal: what the model is told with each question."""

from dataclasses import dataclass

import pytest

from llava_pack.checkpoint.message_body import body
from llava_pack.cli.both.chat import Conversation, _obey
from llava_pack.client.turns import Attachment, Turn, placed
from llava_pack.engine.port import Sampling
from llava_pack.format.errors import ServeError, UsageError


class Listener:
    """A speaker that keeps what it was told and answers with how many turns these were."""

    name = "listener"

    def __init__(self) -> None:
        self.told = []
        self.fails = False

    def answer(self, turns, sampling, answer):
        self.told.append([(turn.role, turn.text, len(turn.attachments)) for turn in turns])
        if self.fails:
            raise ServeError("no answer")
        answer.text = f"{len(turns)} turns"
        yield answer.text


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture
def talk(listener):
    return Conversation(listener, Sampling(), (Attachment(b"", None),))


def test_each_question_comes_with_all_turns_before(listener, talk):
    talk.ask("What is it?")
    talk.ask("And its colour?")
    first = ("user", "What is it?", 1)
    said = ("assistant", "1 turns", 0)
    assert listener.told == [[first], [first, said, ("user", "And its colour?", 0)]]


def test_reset_forgets_turns_and_pictures(listener, talk):
    talk.ask("What is it?")
    talk.add(Attachment(b"", None))
    _obey(talk, "/reset")
    talk.ask("What is it?")
    assert listener.told[-1] == [("user", "What is it?", 0)]


def test_a_question_that_fails_is_not_remembered_and_keeps_its_picture(listener, talk):
    listener.fails = True
    with pytest.raises(ServeError):
        talk.ask("What is it?")
    listener.fails = False
    talk.ask("Again: what is it?")
    assert listener.told[-1] == [("user", "Again: what is it?", 1)]


@pytest.mark.parametrize(
    ("text", "pictures", "written"),
    [
        ("What is it?", "a", ["a", "\n", "What is it?"]),
        ("<image>\nWhat is it?", "a", ["a", "\n", "What is it?"]),
        ("What is it? <image>", "a", ["a", "\n", "What is it? "]),
        ("Is <image> red?", "a", ["Is ", "a", " red?"]),
        ("Same?", "ab", ["a", "\n", "b", "\n", "Same?"]),
        ("<image>\n<image>\nSame?", "ab", ["a", "\n", "b", "\n", "Same?"]),
        ("Is <image> older than <image>?", "ab", ["Is ", "a", " older than ", "b", "?"]),
        ("<image>", "a", ["a", "\n", ""]),
    ],
)
def test_pictures_stand_where_the_question_has_them(text, pictures, written):
    shown = [Shown(one) for one in pictures]
    parts = body(placed(text, shown))
    assert [part.name if isinstance(part, Shown) else part for part in parts] == written


@dataclass
class Shown:
    name: str


@pytest.mark.parametrize(("text", "pictures"), [("<image>", 0), ("<image> <image>", 1), ("<image>", 2)])  # fmt: skip
def test_places_for_another_number_of_pictures_are_refused(text, pictures):
    turn = Turn("user", text, (Attachment(b"", None),) * pictures)
    with pytest.raises(UsageError, match=f"expected one for each picture: {pictures}"):
        assert turn.parts
    assert Turn("assistant", text).parts == (text,)
