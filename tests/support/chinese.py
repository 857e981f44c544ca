"""The Chinese catalogue: which messages it must have, how its files are written, install.sh's copy."""

import functools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from llava_pack.cli.help_pages import filled
from tests.conftest import ROOT
from tests.support.messages import HOLE, help_texts, is_prose, numbered, templates
from tests.support.sources import PACKAGE

FILES = (PACKAGE / "cli" / "zh.toml", PACKAGE / "target" / "zh.toml")
"""The catalogue: what the command line says, and what the installer says, which travels."""
_OF_THE_INSTALLER = ("llava_pack/target/", "llava_pack/format/", "installers/")
_FOREIGN = ("typer", "system", "composed")
_MARKS = {
    text: {"llava_pack/target/receipt_page.py"}
    for text in ("{1}: {2} (need {3})", "{1}: {2} (need {3}); fix: {4}")
}
"""What `mark` of a page says on the terminal too; the page itself is in English."""
INSTALL_SH = ROOT / "installers" / "install.sh"
_SYNOPSIS = (
    "用法：sh install.sh [--bundle DIR] [--expect ID] [--trust-key KEY] [--prefix DIR] [选项…]"
)
BEGIN = "# Chinese begins: made by .ci/chinese.py from llava_pack/target/zh.toml\n"
END = "# Chinese ends\n"
_SH_WORD = r"""'[^']*'|"(?:[^"\\]|\\.)*"|\S+"""


def catalogue_words() -> dict[str, str]:
    """Return every message of the catalogue with its Chinese."""
    return {
        source: text
        for file in FILES
        for table in tomllib.loads(file.read_text(encoding="utf-8")).values()
        for source, text in table.items()
    }


@functools.cache
def all_messages() -> dict[str, set[str]]:
    """Return every message that needs Chinese, and where it stands."""
    found = templates()
    for more in (help_texts(), script_texts(), _MARKS):
        for text, places in more.items():
            found.setdefault(text, set()).update(places)
    return {text: places for text, places in found.items() if f"{text}." not in found}


def without_translation(words: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the messages without Chinese, and the entries that are no message any more."""
    said = all_messages()
    missing = [text for text in said if not words.get(text)]
    stale = [text for text in words if text not in said and text not in foreign_words()]
    return missing, stale


def in_tables(words: dict[str, str]) -> dict[Path, dict[str, dict[str, str]]]:
    """Return both files as they should be: each message once, in the table of its package."""
    tables: dict[Path, dict[str, dict[str, str]]] = {file: {} for file in FILES}
    for text, places in sorted(all_messages().items(), key=lambda one: (min(one[1]), one[0])):
        if zh := words.get(text):
            installer = any(place.startswith(_OF_THE_INSTALLER) for place in places)
            area = min(places).split("/")[1].partition(".")[0] if "/" in min(places) else "help"
            table = "installer" if installer else area
            tables[FILES[installer]].setdefault(table, {})[text] = zh
    tables[FILES[0]] |= _foreign_tables()
    return tables


def foreign_words() -> dict[str, str]:
    """Return the entries that no source of ours has as they are.

    Those of typer and pydantic, of the system, and what is composed.
    """
    return {en: zh for table in _foreign_tables().values() for en, zh in table.items()}


@functools.cache
def _foreign_tables() -> dict[str, dict[str, str]]:
    tables = tomllib.loads(FILES[0].read_text(encoding="utf-8"))
    return {name: tables.get(name, {}) for name in _FOREIGN}


def script_texts() -> dict[str, set[str]]:
    """Return what install.sh says: its refusals and their hints, and the lines of its usage."""
    text = _without_block()
    found: dict[str, set[str]] = {}
    for line in [*_refusals(text), *_named_hints(text), *usage_lines(text).values()]:
        if is_prose(line):
            found.setdefault(numbered(line), set()).add("installers/install.sh")
    return found


def usage_lines(text: str) -> dict[str, str]:
    """Return the options of the script's usage, and what each is for."""
    usage = text.partition("<<'USAGE'\n")[2].partition("\nUSAGE\n")[0]
    found: dict[str, str] = {}
    option = ""
    for line in usage.split("\n"):
        if match := re.fullmatch(r"  (--\S+(?: [A-Z]+)?) +(\S.*)", line):
            option, found[match[1]] = match[1], match[2]
        elif option and line.startswith(" " * 10):
            found[option] += " " + line.strip()
    return found


def _refusals(script: str) -> Iterator[str]:
    """Yield message and hint of every `fail CODE MESSAGE HINT`."""
    joined = script.replace("\\\n", " ")
    for call in re.finditer(rf"\bfail [0-9] +({_SH_WORD}) +({_SH_WORD})", joined):
        for word in call.groups():
            if not word.startswith(("$", '"$fix"', '"$ask"', '"$copy_again"')):
                yield _unquoted(word)


def _named_hints(script: str) -> Iterator[str]:
    for match in re.finditer(rf"\b(?:fix|ask|copy_again|note)=({_SH_WORD})", script):
        yield _unquoted(match[1])


def _unquoted(word: str) -> str:
    """Return a word of the script with a hole for each expansion."""
    if word.startswith("'"):
        return word[1:-1]
    return re.sub(r"\$(?:\{[^}]*\}+|\w+)", HOLE, word[1:-1])


def script_block(words: dict[str, str]) -> str:
    """Return what stands in install.sh between the markers: its words in Chinese."""
    script = _without_block()
    texts = {numbered(text) for text in (*_refusals(script), *_named_hints(script))}
    # the most specific first: sed takes the first that matches
    rules = sorted((text for text in texts if text in words), key=lambda one: (-len(one), one))
    lines = [f"s#^{_expression(text)}$#{_replacement(words[text])}#" for text in rules]
    lines = [one for one, text in zip(lines, rules, strict=True) if words[text] != text]
    usage = [
        line
        for option, text in usage_lines(script).items()
        for line in _option(option, words[numbered(text)])
    ]
    return "\n".join(
        [
            "chinese() {",
            "    printf '%s' \"$1\" | sed '",
            *(f"{line};t" for line in lines),
            "'",
            "}",
            "",
            "chinese_usage() {",
            "    cat <<'USAGE'",
            _SYNOPSIS,
            "",
            *usage,
            "USAGE",
            "}",
            "",
        ]
    )


def _expression(text: str) -> str:
    """Return what matches a message: a basic regular expression, a group for each hole."""
    escaped = re.sub(r"([.*\[\]^$\\#])", r"\\\1", text).replace("'", ".")
    return re.sub(r"\{[1-9]\}", r"\\(.*\\)", escaped)


def _replacement(text: str) -> str:
    """Return the Chinese as sed writes it."""
    escaped = re.sub(r"([&\\#])", r"\\\1", text).replace("'", "’")
    return re.sub(r"\{([1-9])\}", r"\\\1", escaped)


def _option(option: str, text: str) -> list[str]:
    first, *rest = filled(text, 78)
    return [f"  {option:<19}{first}", *(" " * 21 + line for line in rest)]


def _without_block() -> str:
    before, _, after = INSTALL_SH.read_text(encoding="utf-8").partition(BEGIN)
    return before + after.partition(END)[2]


def with_block(words: dict[str, str]) -> str:
    """Return install.sh as it should be."""
    before, _, after = INSTALL_SH.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + script_block(words) + END + after.partition(END)[2]
