"""Grading a known answer: every expected word, whatever the case, and nothing less."""

import pytest

from llava_pack.engine.questions import picture_bytes
from llava_pack.format.errors import IntegrityError
from llava_pack.format.known_answers import KnownAnswer
from llava_pack.health.known_answers import grade


def _known(*contains: str, picture: str = "aGk=") -> KnownAnswer:
    return KnownAnswer(name="shape", picture_png=picture, prompt="What is it?", contains=contains)


@pytest.mark.parametrize(
    ("contains", "text"),
    [
        (("red", "circle"), "There is a red circle."),
        (("red",), "RED"),
        (("Straße",), "an der STRASSE"),
        (("3",), "\uff13 shapes"),
        ((), "anything"),
    ],
)
def test_the_known_answer_is_recognised(contains: tuple[str, ...], text: str) -> None:
    assert grade(_known(*contains), text).ok


@pytest.mark.parametrize("text", ["", "a blue square", "red", "circle circle"])
def test_anything_less_is_not(text: str) -> None:
    graded = grade(_known("red", "circle"), text)
    assert not graded.ok
    assert graded.missing
    assert graded.why.startswith("shape: expected ")


def test_the_picture_is_base64() -> None:
    assert picture_bytes(_known()) == b"hi"
    with pytest.raises(IntegrityError, match="not base64"):
        picture_bytes(_known(picture="not base64!"))
