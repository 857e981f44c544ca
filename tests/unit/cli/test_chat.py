"""A conversation in the terminal: what the model is told with each question."""

from dataclasses import dataclass

import pytest
from PIL import Image

from llava_pack.checkpoint.message_body import body
from llava_pack.cli.both import chat
from llava_pack.cli.both.chat import Conversation, PictureFiles, _obey
from llava_pack.client.turns import Attachment, Turn, placed
from llava_pack.engine.sampling import Sampling
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
    _obey(talk, "/reset", PictureFiles())
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


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / name for name in ("a b.png", "it's.png")]
    for path in paths:
        Image.new("RGB", (4, 2), "red").save(path)
    return paths


@pytest.mark.parametrize(
    "write", ["/image {}", "/image '{}'", "'{}'", "{}", "/image {uri}", "{uri}"]
)
def test_a_picture_is_added_however_its_path_is_written(listener, files, write):
    talk = Conversation(listener, Sampling())
    _obey(talk, write.format(files[0], uri=files[0].as_uri()), PictureFiles())
    talk.ask("What is it?")
    assert listener.told == [[("user", "What is it?", 1)]]


def test_several_pictures_are_dropped_together(listener, files):
    talk = Conversation(listener, Sampling())
    _obey(talk, f"'{files[0]}' \"{files[1]}\"", PictureFiles())
    talk.ask("Which?")
    assert listener.told == [[("user", "Which?", 2)]]


def test_of_several_pictures_none_is_added_where_one_cannot_be(listener, files, tmp_path):
    talk = Conversation(listener, Sampling())
    with pytest.raises(UsageError, match="cannot read the picture"):
        _obey(talk, f"/image '{files[0]}' '{tmp_path}/none.png'", PictureFiles())
    talk.ask("What?")
    assert listener.told == [[("user", "What?", 0)]]


@pytest.mark.parametrize("word", sorted(chat._CLEAR))
def test_every_word_for_it_starts_over(listener, talk, word):
    talk.ask("What is it?")
    _obey(talk, word, PictureFiles())
    talk.ask("And now?")
    assert listener.told[-1] == [("user", "And now?", 0)]


@pytest.mark.parametrize("word", sorted(chat._ASK_HELP))
def test_help_is_shown_and_never_asked(listener, talk, capsys, word):
    _obey(talk, word, PictureFiles())
    assert "/quit" in capsys.readouterr().err
    assert listener.told == []


@pytest.mark.parametrize("word", sorted(chat._QUIT))
def test_every_word_for_it_ends_the_conversation(listener, talk, monkeypatch, word):
    lines = iter([word.upper(), "never asked"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    chat._converse(talk, PictureFiles())
    assert listener.told == []
    assert next(lines) == "never asked"


@pytest.mark.parametrize("line", ["/imgae a.png", "/save", "/IMG"])
def test_an_unknown_command_is_told_and_never_asked(listener, talk, line):
    with pytest.raises(UsageError, match="there is no command") as caught:
        _obey(talk, line, PictureFiles())
    assert "/image FILE" in caught.value.hint
    assert listener.told == []


@pytest.mark.parametrize("line", ["/clear all", "/help me", "/quit now", "/? x"])
def test_a_command_with_something_after_it_is_told_and_never_asked(listener, talk, line):
    with pytest.raises(UsageError, match=r"/[a-z?]+ takes nothing after it") as caught:
        _obey(talk, line, PictureFiles())
    assert "/image FILE" in caught.value.hint
    assert listener.told == []


@pytest.mark.parametrize("line", ["/usr/bin is what?", "quit smoking: how?", "1/2 of it?"])
def test_what_looks_a_little_like_a_command_is_a_question(listener, talk, line):
    _obey(talk, line, PictureFiles())
    assert listener.told[-1][-1][1] == line


def test_a_warning_of_the_answer_is_shown_beside_it(listener, talk, capsys):
    def warned(turns, sampling, answer):
        answer.text, answer.warnings = "white", ("picture 1 has only one colour",)
        yield answer.text

    listener.answer = warned
    talk.ask("What is it?")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("white\n", "warning: picture 1 has only one colour\n")
