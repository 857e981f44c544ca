"""The Chinese pages keep up with the English ones, part by part, and use one list of words.

A failure names the page, the heading and what differs, so it lists what has to be translated.
"""

import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCS = ROOT / "docs"
WORD_LIST = DOCS / "glossary.zh-CN.md"
ENGLISH = sorted([DOCS / "README.md", *DOCS.glob("how-to/*.md"), *DOCS.glob("tutorial/*.md")])
ENGLISH = [page for page in ENGLISH if not page.name.endswith(".zh-CN.md")]
COMMENT = re.compile(r"(^|\s)# (.*)$", re.MULTILINE)
FENCE = re.compile(r"^(```\w*\n.*?^```)$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.+)\n", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
EVERYDAY = {
    "copy",
    "head",
    "health",
    "key",
    "left out",
    "page",
    "progress",
    "send",
    "serve",
    "source",
    "store",
    "target",
}
"""Words of the list that also mean something else: "this page", an "API key", Prometheus' target,
and a model's head."""


@dataclass(frozen=True)
class Section:
    """What stands below one heading: its prose and its code blocks."""

    level: int
    title: str
    prose: str
    blocks: tuple[str, ...]

    @property
    def shape(self) -> list[str]:
        """Return the rows with their number of cells, and the items of lists."""
        rows = re.findall(r"^ *\|.*\|$", self.prose, re.MULTILINE)
        items = re.findall(r"^ *- ", self.prose, re.MULTILINE)
        steps = re.findall(r"^(\d+)\. ", self.prose, re.MULTILINE)
        items += (
            steps if "1" in steps else []
        )  # a line may begin with the number of a sentence's end
        cells = (row.count("|") - row.count("\\|") - 1 for row in rows)
        return [f"a row of {count} cells" for count in cells] + ["an item of a list"] * len(items)

    @property
    def lines(self) -> list[str]:
        """Return the lines of the code blocks, with an empty comment where they have one."""
        return COMMENT.sub(r"\1#", "\n".join(self.blocks)).splitlines()

    @property
    def comments(self) -> list[str]:
        """Return the comments of the code blocks."""
        return [found for block in self.blocks for _, found in COMMENT.findall(block)]

    @property
    def code(self) -> set[str]:
        """Return what stands between backticks, as one line."""
        return {" ".join(code.split()) for code in re.findall(r"`([^`]+)`", self.prose)}

    @property
    def figures(self) -> set[str]:
        """Return the numbers of the text, 10,000 as 10000."""
        text = re.sub(r"`[^`]+`|\]\([^)]+\)", "", self.prose)
        return {figure.replace(",", "") for figure in re.findall(r"\d+(?:[.,]\d+)*", text)}

    @property
    def links(self) -> list[str]:
        """Return where its links and pictures lead."""
        return LINK.findall(self.prose) + re.findall(r'src="([^"]+)"', self.prose)


def chinese_of(page: Path) -> Path:
    """Return where the translation of a page stands, or would."""
    return page.with_name(f"{page.stem}.zh-CN.md")


def sections(text: str) -> list[Section]:
    """Return the parts of a page; the link to the other language is in none."""
    blocks = FENCE.findall(text)
    text = FENCE.sub("\0", re.sub(r"^\[(?:中文|English)\]\(\S+\)$", "", text, flags=re.MULTILINE))
    heads = [*HEADING.finditer(text)]
    found = []
    for head, after in pairwise([*((head.end(), head) for head in heads), (len(text), None)]):
        prose = text[head[0] : after[1].start() if after[1] else len(text)]
        here, blocks = blocks[: prose.count("\0")], blocks[prose.count("\0") :]
        found.append(Section(len(head[1][1]), head[1][2], prose, tuple(here)))
    return found


def anchors(text: str) -> list[str]:
    """Return the names that GitHub gives to the headings of a page."""
    titles = (re.sub(r"[^\w\- ]", "", section.title.lower()) for section in sections(text))
    return [title.replace(" ", "-") for title in titles]


def differences(english: Path, chinese: Path) -> Iterator[str]:
    """Yield what a translation lacks or has too much, as one line that names the place."""
    original, translated = (sections(page.read_text("utf-8")) for page in (english, chinese))
    if [part.level for part in original] != [part.level for part in translated]:
        yield f"{chinese.name} has other headings: {[part.title for part in translated]}"
        yield f"{english.name} has: {[part.title for part in original]}"
        return
    for part, other in zip(original, translated, strict=True):
        place = f"{chinese.name}, {other.title!r} ({part.title!r})"
        links = [translated_link(english, link) for link in part.links]
        for kind, expected, got in (
            ("shape", part.shape, other.shape),
            ("line of code", part.lines, other.lines),
            ("code", part.code, other.code),
            ("figure", part.figures, part.figures & other.figures),
            ("link", links, other.links),
        ):
            lacking, more = Counter(expected) - Counter(got), Counter(got) - Counter(expected)
            yield from (f"{place} lacks the {kind} {what}" for what in lacking)
            yield from (f"{place} has a {kind} of its own: {what}" for what in more)
        if part.lines != other.lines and Counter(part.lines) == Counter(other.lines):
            yield f"{place} has its lines of code in another order"
        left = set(part.comments) & set(other.comments)
        yield from (f"{place} has a comment in English: {what}" for what in left)


def translated_link(page: Path, link: str) -> str:
    """Return where a link of an English page leads in the Chinese one: to Chinese where there is any."""
    name, _, anchor = link.partition("#")
    if re.match(r"\w+:", link):
        return link
    target = (page.parent / name).resolve() if name else page
    chinese = chinese_of(target)
    if target.suffix != ".md" or not chinese.exists():
        return link
    if anchor:
        place = anchors(target.read_text("utf-8")).index(anchor)
        anchor = "#" + anchors(chinese.read_text("utf-8"))[place]
    return (os.path.relpath(chinese, page.parent).replace(os.sep, "/") if name else "") + anchor


@pytest.mark.parametrize("page", ENGLISH, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_the_chinese_page_has_what_the_english_one_has(page):
    chinese = chinese_of(page)
    assert chinese.exists(), f"{page.name} has no translation: expected {chinese.name}"
    found = list(differences(page, chinese))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.zh-CN.md")), ids=lambda page: page.name)
def test_a_page_and_its_translation_lead_to_each_other_below_their_titles(page):
    english = page.with_name(page.name.replace(".zh-CN", ""))
    for here, link in ((english, f"[中文]({page.name})"), (page, f"[English]({english.name})")):
        assert here.read_text("utf-8").splitlines()[1:4] == ["", link, ""], here.name


def test_an_anchor_of_a_chinese_page_is_a_heading():
    for page in DOCS.rglob("*.zh-CN.md"):
        for name, anchor in re.findall(r"\]\(([^):#]*)#([^)]+)\)", page.read_text("utf-8")):
            target = page.parent / name if name else page
            assert anchor in anchors(target.read_text("utf-8")), f"{name}#{anchor} in {page.name}"


def words() -> dict[str, set[str]]:
    """Return the Chinese for each English word of the list; some have two."""
    found: dict[str, set[str]] = {}
    for english, chinese in re.findall(r"^\| ([^|]+) \| ([^|]+) \|", list_of_words(), re.MULTILINE):
        terms, cells = re.sub(r" \([^)]*\)", "", english).split(", "), chinese.split("、")
        paired = len(terms) == len(cells)
        for term, cell in zip(terms, cells if paired else [chinese] * len(terms), strict=True):
            found.setdefault(term, set()).update(cell.split("、"))
    return found


def list_of_words() -> str:
    return WORD_LIST.read_text("utf-8")


def test_every_term_of_the_glossary_has_its_chinese_in_the_same_order():
    english = (DOCS / "glossary.md").read_text("utf-8").partition("\n## Words\n")[0]
    chinese = list_of_words().partition("\n## 用词\n")[0]
    rows = (re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE)[1:] for page in (english, chinese))
    terms, translated = rows
    assert translated == terms


@pytest.mark.parametrize("page", ENGLISH, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_the_words_are_those_of_the_list(page):
    """Where the English page has a term, its Chinese one has the word for it."""
    english, chinese = (prose(path) for path in (page, chinese_of(page)))
    missing = {
        term: sorted(expected)
        for term, expected in words().items()
        if term not in EVERYDAY
        and re.search(rf"(?<![\w-]){re.escape(term)}s?(?![\w-])", english, re.IGNORECASE)
        and not any(word in chinese for word in expected)
    }
    assert not missing, f"{chinese_of(page).name}: see docs/{WORD_LIST.name}"


def prose(page: Path) -> str:
    """Return the text of a page without code and without where links lead."""
    text = " ".join(
        section.title + "\n" + section.prose for section in sections(page.read_text("utf-8"))
    )
    text = " ".join(re.sub(r"`[^`]+`|\]\([^)]+\)", "", text).split())
    return re.sub(r"(?<=[^\x00-\x7f]) (?=[^\x00-\x7f])", "", text)


def chinese_texts() -> dict[str, str]:
    """Return what people read in Chinese, by where it stands."""
    pages = [*ROOT.glob("*.zh-CN.md"), *DOCS.rglob("*.zh-CN.md")]
    texts = {page.name: page.read_text("utf-8") for page in pages}
    texts[WORD_LIST.name] = list_of_words().partition("\n## 用词\n")[0]
    texts |= {
        path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
        for path in (ROOT / "llava_pack").rglob("zh.toml")
    }
    failures = (ROOT / "llava_pack/health/knowledge.toml").read_text("utf-8")
    for failure in tomllib.loads(failures)["failure"]:
        texts[failure["id"]] = "\n".join(failure["zh"].values())
    page = ROOT / "llava_pack/serve/page/static/words.js"
    return texts | {page.name: page.read_text("utf-8")}


def test_no_chinese_text_has_a_word_that_the_list_rules_out():
    ruled_out = re.findall(
        "「([^」]+)」", list_of_words().partition("\n## 用词\n")[2].partition("|---")[2]
    )
    assert "气隙" in ruled_out
    found = {
        name: [word for word in ruled_out if word in text] for name, text in chinese_texts().items()
    }
    assert not {name: words for name, words in found.items() if words}, f"see docs/{WORD_LIST.name}"


@pytest.mark.parametrize(("name", "language"), [("use-the-page", 0), ("use-the-page.zh-CN", 1)])
def test_what_the_guide_to_the_page_calls_a_button_is_what_the_page_calls_it(name, language):
    script = (ROOT / "llava_pack/serve/page/static/words.js").read_text("utf-8")
    shown = {row[language] for row in re.findall(r'\["([^"]+)",\s*"([^"]+)"\]', script)}
    guide = (DOCS / f"how-to/{name}.md").read_text("utf-8")
    called = set(re.findall(r"(?<!\*)\*([^*\n?]+)\*(?!\*)", guide))
    assert len(called) >= 10
    assert called <= shown


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("## 乙\n", "### 乙\n", "has other headings"),
        ("`--b`", "`--c`", "lacks the code --b"),
        ("do it  # 现在\nno\n", "no\ndo it  # 现在\n", "in another order"),
        ("# 现在", "# now", "has a comment in English: now"),
        ("7 ", "8 ", "lacks the figure 7"),
        ("do it", "do that", "lacks the line of code do it"),
        ("| 一 | 二 |\n", "", "lacks the shape a row of 2 cells"),
        ("two.zh-CN.md#丙-丁", "two.md#c-d", "lacks the link two.zh-CN.md#丙-丁"),
    ],
)
def test_a_part_that_is_out_of_date_is_named(tmp_path, old, new, said):
    """The mutation of each law; comments may differ."""
    english, chinese = tmp_path / "one.md", tmp_path / "one.zh-CN.md"
    english.write_text(
        "# A\n\n[中文](one.zh-CN.md)\n\n```sh\ndo it  # now\nno\n```\n\n## B\n\n"
        "In 7 days `--b`, see [two](two.md#c-d).\n\n| a | b |\n|---|---|\n| c | d |\n"
    )
    text = (
        "# 甲\n\n[English](one.md)\n\n```sh\ndo it  # 现在\nno\n```\n\n## 乙\n\n"
        "7 天内 `--b` [二](two.zh-CN.md#丙-丁)。\n\n| 子 | 丑 |\n|---|---|\n| 一 | 二 |\n"
    )
    (tmp_path / "two.md").write_text("# C D\n")
    (tmp_path / "two.zh-CN.md").write_text("# 丙 丁\n")
    chinese.write_text(text)
    assert list(differences(english, chinese)) == []
    chinese.write_text(text.replace(old, new))
    assert any(said in line for line in differences(english, chinese))
