"""The documentation keeps up: commands, exit codes, generated pages, links."""

import re
import subprocess
import sys

import pytest

from llava_pack.cli.app import app
from llava_pack.format import errors
from llava_pack.format.exit_codes import ExitCode
from llava_pack.recipe import recipe_names
from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PYTHONS_OWN = {"json.py", "sitecustomize.py"}
"""Modules that the threat model names because an attacker would."""


def test_the_command_reference_is_what_the_commands_say(tmp_path):
    command = [sys.executable, "-m", "typer", "llava_pack.cli.app", "utils", "docs"]
    command += ["--name", "llava-pack", "--output", str(tmp_path / "cli.md")]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    written = (ROOT / "docs/reference/cli.md").read_text()
    assert written == (tmp_path / "cli.md").read_text(), "run: make reference"


@pytest.mark.parametrize("page", ["known-failures", "request-fields"])
def test_a_page_that_is_made_is_what_its_source_says(page):
    made = (ROOT / "docs/reference" / f"{page}.md").read_text()
    maker = page.replace("-", "_")
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, '.ci'); import {maker}"]
    command[-1] += f"; print({maker}.page(), end='')"
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert made == done.stdout, "run: make reference"


def test_every_exit_code_is_documented_with_its_word():
    page = (ROOT / "docs/reference/exit-codes.md").read_text().partition("follows Nagios")[0]
    rows = dict(re.findall(r"^\| (\d+) \| ([a-z-]+) \|", page, flags=re.MULTILINE))
    kinds = {
        str(int(error.exit_code)): error.kind
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.PackError)
    }
    assert rows == {"0": "ok", **kinds}
    assert {int(code) for code in rows} == {int(code) for code in ExitCode}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_inside_the_documentation_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{target} in {page.name}"


def test_every_module_that_a_page_names_is_there():
    tracked = [f"/{name}" for name in _tracked()]
    for page in (ROOT / "docs").rglob("*.md"):
        for name in set(re.findall(r"`([\w./]+\.py)`", page.read_text())) - PYTHONS_OWN:
            assert any(path.endswith(f"/{name}") for path in tracked), f"{name} in {page.name}"


def test_no_example_of_a_command_ends_with_a_remark():
    examples = [command.callback.__doc__ or "" for command in app.registered_commands]
    assert [line for text in examples for line in text.splitlines() if " # " in line] == []


def test_every_command_has_an_example():
    for command in app.registered_commands:
        if not command.hidden:
            text = command.callback.__doc__ or ""
            assert "Examples:" in text, command.callback.__name__


def test_every_recipe_is_in_the_documentation():
    text = "".join(page.read_text() for page in PAGES)
    for name in recipe_names():
        assert name in text, name


def test_no_registry_and_no_private_path_is_in_the_repository():
    forbidden = re.compile(
        r"pypi\.o" + r"rg|python" + r"hosted|deb\.deb" + r"ian\.org|/ro" + r"ot/\.py"
    )
    for name in _tracked():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".sh", ".json", ""} and path.is_file():
            assert not forbidden.search(path.read_text(errors="replace")), name


def test_the_chinese_readme_has_the_commands_of_the_english_one():
    """It has one block more; the pages below docs are compared in test_chinese_pages.py."""
    wanted, found = _typed(ROOT / "README.md"), _typed(ROOT / "README.zh-CN.md")
    assert [block for block in found if block in wanted] == wanted
    assert all("--lang zh" in block for block in found if block not in wanted)


def _tracked():
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [name for name in listed.split("\0") if name]


def _typed(page):
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [re.sub(r"\s+# .*", "", block) for block in blocks]


def test_every_page_is_two_clicks_from_the_readme():
    """A translation is one click from its original, which test_chinese_pages.py holds."""
    start = ROOT / "README.md"
    one_click = _links(start)
    two_clicks = one_click.union(*map(_links, one_click))
    pages = {page for page in (ROOT / "docs").rglob("*.md") if not page.name.endswith(".zh-CN.md")}
    assert pages - two_clicks == set()


def test_the_map_of_the_documentation_describes_each_page_once():
    """Decisions have a map of their own, and a translation stands beside its original."""
    page = ROOT / "docs" / "README.md"
    lines = re.findall(r"^- \[[^]]+\]\(([^)]+)\): \S", page.read_text(), flags=re.MULTILINE)
    decisions = ROOT / "docs" / "decisions"
    pages = {
        path.relative_to(page.parent).as_posix()
        for path in page.parent.rglob("*.md")
        if path.parent != decisions and not path.name.endswith(".zh-CN.md")
    }
    assert sorted(lines) == sorted(pages - {"README.md", "glossary.md"} | {"decisions/README.md"})
    assert _links(decisions / "README.md") >= set(decisions.glob("0*.md"))


def _links(page):
    links = re.findall(r"\]\(([^)#:\s]+\.md)(?:#[^)]*)?\)", page.read_text())
    return {(page.parent / link).resolve() for link in links}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_is_pasted_on_a_laptop_holds_no_remark(page):
    """Neither the zsh of macOS nor cmd.exe knows `#`: they take the remark for arguments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    typed = [line for block in blocks for line in block.splitlines()]
    assert [line for line in typed if _LAPTOPS.match(line) and _REMARK.search(line)] == []


_OURS = "|".join(
    command.name or command.callback.__name__.replace("_", "-")
    for command in app.registered_commands
    if command.callback.__module__.startswith(("llava_pack.cli.laptop", "llava_pack.cli.both"))
)
_LAPTOPS = re.compile(rf"\s*(git|uv|make|ssh|scp|rsync|llava-pack ({_OURS}))\b")
_REMARK = re.compile(r"^(?:[^'\"]|'[^']*'|\"[^\"]*\")*\s#")
