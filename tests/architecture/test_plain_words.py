"""What people read has none of the phrases that the glossary's table of words puts in quotes."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

GLOSSARY = ROOT / "docs" / "glossary.md"


def phrases(page: str) -> tuple[str, ...]:
    """Return the quoted phrases of the second column of the table below "Words", each once."""
    rows = re.findall(r"^\|[^|]*\|([^|]*)\|", page.partition("\n## Words\n")[2], re.MULTILINE)
    return tuple(dict.fromkeys(re.findall(r'"([^"]+)"', "\n".join(rows))))


def occurrences(phrase: str, text: str) -> Iterator[str]:
    """Yield where a phrase or a longer form of its last word stands, across line ends too."""
    pattern = r"\s+".join(map(re.escape, phrase.split()))
    for match in re.finditer(rf"\b{pattern}", text, re.IGNORECASE):
        yield " ".join(text[max(match.start() - 40, 0) : match.end() + 40].split())


def messages(source: str) -> str:
    """Return the texts of a module, without docstrings; help texts are in docs/reference/cli.md."""
    nodes = list(ast.walk(ast.parse(source)))
    bare = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = (node for node in nodes if isinstance(node, ast.Constant) and id(node) not in bare)
    return "\n".join(node.value for node in texts if isinstance(node.value, str))


def shown(path: Path) -> str:
    """Return what a person may read of a file."""
    text = path.read_text(encoding="utf-8")
    if path == GLOSSARY:
        return text.partition("\n## Words\n")[0]
    if path.suffix == ".py":
        return messages(text)
    return text if path.suffix == ".md" else re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)


@cache
def everything() -> dict[str, str]:
    folders = {
        "llava_pack": (".py", ".toml", ".js", ".html"),
        "installers": (".sh", ".service"),
        "docs": (".md",),
    }
    paths = [*ROOT.glob("*.md"), *ROOT.glob("bundles/*.toml")]
    for folder, suffixes in folders.items():
        paths += [path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    return {path.relative_to(ROOT).as_posix(): shown(path) for path in sorted(paths)}


PHRASES = phrases(GLOSSARY.read_text(encoding="utf-8"))


@pytest.mark.parametrize("phrase", PHRASES)
def test_nothing_that_people_read_has_the_phrase(phrase: str) -> None:
    found = {name: list(occurrences(phrase, text)) for name, text in everything().items()}
    assert not {name: lines for name, lines in found.items() if lines}, "see docs/glossary.md"


def test_the_next_row_of_the_glossary_is_read() -> None:
    page = (
        '# G\n\n## Words\n\n| write | not | because |\n|---|---|---|\n| a "b" | "c d", e | "f" |\n'
    )
    assert phrases(page) == ("c d",)
    assert {"at once", "mend"} <= set(PHRASES)


@pytest.mark.parametrize(
    "source",
    [
        'raise ServeError("stopping; once more to stop at\\n once")',
        'note(f"process {pid} is "\n  "mended at " f"once")',
        'X: Annotated[int, Option(help="Requests answered At once.")] = 4',
    ],
)
def test_a_phrase_in_a_message_is_seen(source: str) -> None:
    """The mutation: what the table is made of."""
    assert list(occurrences("at once", messages(source)))


@pytest.mark.parametrize("source", ['"""At once."""', 'def f():\n    "At once."', "# at once"])
def test_what_only_programmers_read_is_not_searched(source: str) -> None:
    assert not list(occurrences("at once", messages(source)))
