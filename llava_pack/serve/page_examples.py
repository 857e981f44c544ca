"""Example pictures of the page: drawn here, so that none has to be carried or licensed."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from llava_pack.format.text import Language
from llava_pack.serve.page_words import QUESTIONS, Drawn

_SIZE = 336
_RED, _BLUE, _GREEN, _YELLOW = "#e02020", "#2050e0", "#20a040", "#f0d020"


@dataclass(frozen=True, kw_only=True)
class Example:
    """A picture and a question about it."""

    drawn: Drawn
    picture: Path
    question: str
    """In English, which every LLaVA was trained on."""


def draw_examples(folder: Path) -> tuple[Example, ...]:
    """Draw the example pictures into a folder and return them with their questions."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[Drawn, Image.Image] = {
        "circle": _circle(),
        "two": _two_things(),
        "square": _square(),
    }
    examples = []
    for name, picture in drawn.items():
        path = folder / f"example-{name}.png"
        picture.save(path, optimize=True)
        examples.append(Example(drawn=name, picture=path, question=QUESTIONS["en"][name]))
    return tuple(examples)


def shown_examples(examples: Iterable[Example], language: Language) -> list[dict[str, Any]]:
    """Return the examples as the page shows them."""
    return [
        {
            "text": example.question,
            "display_text": QUESTIONS[language][example.drawn],
            "files": [str(example.picture)],
        }
        for example in examples
    ]


def _circle() -> Image.Image:
    picture = Image.new("RGB", (_SIZE, _SIZE), "white")
    ImageDraw.Draw(picture).ellipse((98, 98, 238, 238), fill=_RED)
    return picture


def _two_things() -> Image.Image:
    picture = Image.new("RGB", (_SIZE, _SIZE), "white")
    drawing = ImageDraw.Draw(picture)
    drawing.rectangle((45, 180, 145, 280), fill=_BLUE)
    drawing.polygon(((235, 55), (290, 155), (180, 155)), fill=_GREEN)
    return picture


def _square() -> Image.Image:
    picture = Image.new("RGB", (_SIZE, _SIZE), "black")
    ImageDraw.Draw(picture).rectangle((110, 110, 226, 226), fill=_YELLOW)
    return picture
