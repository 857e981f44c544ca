"""Every message has its Chinese, nothing is left over, and both use the words of the glossary."""

import ast
import re

import pytest

from llava_pack.format.translation import Catalogue
from tests.conftest import ROOT
from tests.support.chinese import (
    BEGIN,
    END,
    INSTALL_SH,
    catalogue_words,
    foreign_words,
    script_texts,
    usage_lines,
    with_block,
    without_translation,
)
from tests.support.messages import texts_of
from tests.support.sources import SOURCES, parsed

GLOSSARY = (ROOT / "docs" / "glossary.zh-CN.md").read_text(encoding="utf-8")
WORDS = catalogue_words()
HELD = (
    *("recipe", "bundle", "vision tower", "prefix", "engine", "queue", "slots", "fence"),
    *("checkpoint", "weights", "licence", "mirror", "installer", "signature", "adapter"),
    *("passphrase", "tokenizer", "vocabulary", "exit code", "package index", "generation"),
)
"""Terms whose Chinese a message must have; others may be left out in a sentence of its own."""


def terms() -> dict[str, set[str]]:
    """Return the Chinese of each English term, from both tables of the glossary."""
    rows = re.findall(r"^\| ([a-z][^|]*) \| ([^|]+) \|", GLOSSARY, re.MULTILINE)
    found: dict[str, set[str]] = {}
    for english, chinese in rows:
        for term in english.split(", "):
            found.setdefault(term, set()).update(chinese.strip().split("、"))
    return found


def test_every_message_has_its_chinese():
    missing, _ = without_translation(WORDS)
    lines = "\n".join(f'"{text}" = ""' for text in missing)
    assert not missing, f"translate these: .ci/chinese.py prints them to paste\n{lines}"


def test_nothing_is_translated_that_nobody_says():
    _, stale = without_translation(WORDS)
    assert not stale, "python .ci/chinese.py --tidy takes them out"


@pytest.mark.parametrize("text", [text for text in WORDS if "{1}" in text])
def test_a_translation_has_the_holes_of_its_message(text):
    assert sorted(re.findall(r"\{\d\}", text)) == sorted(re.findall(r"\{\d\}", WORDS[text]))


def test_a_command_or_an_option_stays_as_it_is():
    pattern = re.compile(r"--[a-z][a-z-]+|`[^`]+`|\b[A-Z]{2,}(?:_[A-Z]+)+\b")
    lost = {
        text: missing
        for text, chinese in WORDS.items()
        if (missing := set(pattern.findall(text)) - set(pattern.findall(chinese)))
    }
    assert not lost


def test_the_glossary_names_what_is_not_written():
    assert len(terms()) > 80
    banned = re.findall(r"「([^」]+)」", GLOSSARY.partition("\n## 用词\n")[2].partition("|---")[2])
    assert "捆绑包" in banned
    found = {text: word for text in WORDS.values() for word in banned if word in text}
    assert not found


@pytest.mark.parametrize("term", HELD)
def test_a_term_has_the_word_of_the_glossary(term):
    chinese = terms()[term.removesuffix("s") if term == "slots" else term]
    pattern = re.compile(rf"(?<!CA )(?<![-/_.\w`]){term}(?:s|es)?(?![-/_.\w`(]|\.\w| keygen)")
    plain = {text: re.sub(r"`[^`]*`|\bllava-pack [a-z-]+", "", text) for text in WORDS}
    wrong = {
        text: WORDS[text]
        for text, bare in plain.items()
        if pattern.search(bare)
        and WORDS[text] != text
        and not any(word in WORDS[text] for word in chinese)
    }
    assert not wrong, f"docs/glossary.zh-CN.md: {term} is {' or '.join(chinese)}"


def test_the_script_has_the_catalogue_s_words():
    assert INSTALL_SH.read_text(encoding="utf-8") == with_block(WORDS), (
        "python .ci/chinese.py --tidy writes them"
    )


def test_the_script_s_words_only_replace_lines_of_text():
    """It is not read by who audits the script: no rule does more than replace one whole line."""
    block = INSTALL_SH.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    _, rules, usage = re.split(r"sed '\n|\n'\n}\n", block)
    for rule in rules.split("\n"):
        assert re.fullmatch(r"s#\^[^#']+\$#[^#']+#;t", rule), rule
    head, page, tail = re.split(r"<<'USAGE'\n|\nUSAGE\n", usage)
    assert head.split() == ["chinese_usage()", "{", "cat"]
    assert tail.strip() == "}"
    assert all(re.match(r"用法| {2}--| {21}\S|$", line) for line in page.split("\n"))


def test_the_usage_and_the_refusals_of_the_script_are_read():
    texts = script_texts()
    assert {"{1} needs a value", "unknown argument {1}", "choose another --prefix"} <= set(texts)
    assert "--expect ID" in usage_lines(INSTALL_SH.read_text(encoding="utf-8"))


def test_only_sentences_of_ours_are_printed_as_data_that_is_translated():
    """An answer, a command, an address or a key goes through `console.verbatim`."""
    found = [
        f"{path.name}:{call.lineno}: {ast.unparse(call)}"
        for path in SOURCES
        for call in ast.walk(parsed(path))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "console.data"
        if not isinstance(call.args[0], ast.JoinedStr | ast.Constant | ast.BinOp)
        if ast.unparse(call.args[0]) != "line"
    ]
    assert not found


def test_what_is_not_ours_is_kept_apart():
    assert foreign_words()["Missing command."]


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ('raise UsageError(f"no {x}", hint="do it now")', {"no {1}", "do it now"}),
        ('console.say("! all " f"{n} done")', {"all {1} done"}),
        ('def f(p):\n    w = "one thing"\n    raise RecipeError(f"{w} or {p}")', {"one thing"}),
        (
            "def f(n):\n    progress.start(f\"read {n} file{ 's' if n else ''}\", 1)",
            {"read {1} file"},
        ),
        (
            'FIX = "stop it first"\ndef f():\n    return Layer.GPU.warn("hot gpu", fix=FIX)',
            {"hot gpu"},
        ),
        ('class NewError(UsageError): ...\nraise ServeError("is new")', {"is new"}),
        (
            'def _bad(text) -> UsageError:\n    return UsageError(text)\nraise _bad("new here")',
            {"new here"},
        ),
        (
            'def _same(name, need) -> FloorFinding: ...\n_same("os", f"at least {n}")',
            {"os", "at least {1}"},
        ),
        ("_log.warning(f'{x} is logged')", set()),
    ],
)
def test_the_next_message_is_seen(source, texts, tmp_path):
    """The mutation: a message written in any of the usual ways lacks its Chinese."""
    path = tmp_path / "module.py"
    path.write_text(source)
    found = texts_of(path)
    assert texts <= found if texts else not found


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("✓ os: linux (need linux)", "✓ 操作系统：linux（需要 linux）"),
        ("✓ inodes: 8236 are free (need at least 12)", "✓ inodes：8236 个空闲（需要至少 12）"),
        (
            "✗ arch: x86_64 (need riscv64); fix: build with --platform for this machine",
            "✗ 架构：x86_64（需要 riscv64）；解决方法：用 --platform 为这台机器构建",
        ),
        (
            "still missing: medium 2 of 4 (3 files, 4.1 GB); medium 4 of 4 (1 files, 2.9 GB)",
            "仍缺少：第 2 个介质，共 4 个（3 个文件，4.1 GB）; 第 4 个介质，共 4 个（1 个文件，2.9 GB）",
        ),
    ],
)
def test_what_is_composed_of_our_words_is_translated_whole(english, chinese):
    assert Catalogue(WORDS).translated(english) == chinese
