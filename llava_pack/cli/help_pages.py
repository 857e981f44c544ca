"""Help pages and usage errors in Chinese: typer writes them in English, the border translates."""

import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from llava_pack.cli import console
from llava_pack.cli.language import translated

_AS_IT_IS = "\b"
"""Before a paragraph whose lines typer leaves alone."""
_BRACKET = re.compile(r"(.*?)((?: \[[^][]*\])?)")
"""A text, and what typer writes behind it: `[default: 3]`, `[required]`."""
_OPENING = frozenset("([{（【《“‘")
_CLOSING = frozenset(",.;:!?)]}'\"，。；：！？、）】》”’")


def run(app: typer.Typer, arguments: Sequence[str]) -> Any:
    """Run the command line as `app` does, with its help and its usage errors in Chinese."""
    with _chinese_pages():
        try:
            return app(args=list(arguments), prog_name="llava-pack", standalone_mode=False)
        except typer.Abort:
            console.say("Aborted!")
            return 1
        except Exception as error:
            # the base of typer's errors has no public name
            if not hasattr(error, "format_message"):
                raise
            page = io.StringIO()
            error.show(page)  # type: ignore[attr-defined]
            console.say(page.getvalue().rstrip("\n"))
            return error.exit_code  # type: ignore[attr-defined]


def filled(text: str, width: int) -> list[str]:
    """Return a text as lines of so many columns, of which a Chinese character takes two.

    >>> filled("离线包 ID, 或 abc", 8)
    ['离线包', 'ID, 或', 'abc']
    """
    lines, line = [], ""
    for piece in _pieces(text):
        if line and _columns(line + piece.rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece if line else piece.lstrip()
    return [*lines, line.rstrip()] if line.strip() else lines


def _pieces(text: str) -> Iterator[str]:
    """Yield what stays in one line: a word with the space behind it, a Chinese character."""
    piece = ""
    for char in text:
        ends = piece.endswith(" ") or _wide(char) or (piece and _wide(piece[-1]))
        if piece and ends and piece[-1] not in _OPENING and char not in _CLOSING and char != " ":
            yield piece
            piece = ""
        piece += char
    yield piece


def _columns(text: str) -> int:
    return sum(2 if _wide(char) else 1 for char in text)


def _wide(char: str) -> bool:
    return unicodedata.east_asian_width(char) in {"W", "F"}


@contextmanager
def _chinese_pages() -> Iterator[None]:
    """Have typer write its pages with our formatter."""
    context: Any = TyperGroup.context_class
    plain = context.formatter_class

    class ChinesePages(plain):  # type: ignore[misc, valid-type]
        """Translates each text as a whole, then breaks it into lines."""

        def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
            super().write_usage(prog, args, prefix or translated("Usage:"))

        def write_heading(self, heading: str) -> None:
            self.write(f"{'':>{self.current_indent}}{translated(heading)}：\n")

        def write_text(self, text: str) -> None:
            width = self.width - self.current_indent
            super().write_text("\n\n".join(_paragraph(one, width) for one in text.split("\n\n")))

        def write_dl(self, rows: Any, col_max: int = 30, col_spacing: int = 2) -> None:
            rows = list(rows)
            first = min(max(len(name) for name, _ in rows), col_max) + col_spacing
            width = max(self.width - first - 2, 10)
            told = [(name, _paragraph(text, width) if text else "") for name, text in rows]
            super().write_dl(told, col_max, col_spacing)

    context.formatter_class = ChinesePages
    try:
        yield
    finally:
        context.formatter_class = plain


def _paragraph(text: str, width: int) -> str:
    """Return a paragraph in Chinese, its lines made here."""
    if text.startswith(_AS_IT_IS):  # a heading, and examples: what a person types stays
        lines = text.split("\n")
        return "\n".join(line if line.startswith(" ") else translated(line) for line in lines)
    body, bracket = _BRACKET.fullmatch(" ".join(text.split())).groups()  # type: ignore[union-attr]
    return "\n".join([_AS_IT_IS, *filled(translated(body) + translated(bracket), width)])
