"""The command line in Chinese: what a person reads, and what programs read all the same."""

import json
import os
import subprocess
import sys

import pytest

from llava_pack.cli import console, main
from llava_pack.cli.help_pages import filled
from llava_pack.format.errors import RecipeError
from llava_pack.format.translation import Catalogue
from tests.support.chinese import catalogue_words

CHINESE = {"LANG": "zh_CN.UTF-8"}
COMMANDS = [
    "probe",
    "build",
    "plan",
    "lock",
    "keygen",
    "demo",
    "install",
    "serve",
    "status",
    "logs",
    "start",
    "swap",
    "stop",
    "health",
]
COMMANDS += [
    "support-bundle",
    "generations",
    "revert",
    "gc",
    "uninstall",
    "tunnel",
    "chat",
    "ask",
    "verify",
    "inspect",
]
COMMANDS += ["explain", "keys", "keys add", "service", "service install"]


def run(*arguments, **environ):
    """Run the command line; UTF-8 unless the environment has another encoding."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("LC", "LANG"))
    }
    return subprocess.run(
        [sys.executable, "-m", "llava_pack", *arguments],
        env={**clean, "PYTHONIOENCODING": "utf-8", **environ}, capture_output=True, check=False,
    )  # fmt: skip


def english_lines(page):
    """Return lines of a help page that are still English: three plain words in a row."""
    prose = [line for line in page.split("\n") if not line.startswith("    ")]
    return [line for line in prose if console_words(line) > 2]


def console_words(line):
    plain = line.partition("  ")[2] if line.startswith("  -") else line
    return sum(word.isalpha() and word.isascii() and word.islower() for word in plain.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_page_is_chinese(command, monkeypatch, capsys):
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    assert main([*command.split(), "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("用法：llava-pack ")
    assert english_lines(page) == []


def test_the_first_page_is_chinese():
    done = run("--help", **CHINESE)
    page = done.stdout.decode()
    assert "\n在笔记本上:\n" in page
    assert "\n  probe           探测一台服务器：" in page
    assert english_lines(page) == []


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["buld"], 2, "错误：没有这个命令 'buld'"),
        (["build"], 2, "错误：缺少参数 'recipe'。"),
        (["build", "--nonsense", "x"], 2, "错误：没有这个选项：--nonsense"),
        (["serve", "--port", "x"], 2, "错误：'--port' 的值无效："),
        (["build", "nosuch"], 10, "错误: nosuch: 未知的配方，应为随附的配方"),
    ],
)
def test_a_mistake_is_told_in_chinese_with_the_same_code(arguments, code, text):
    done = run(*arguments, **CHINESE)
    assert done.returncode == code == run(*arguments).returncode
    assert text in done.stderr.decode()


def test_without_arguments_the_help_is_shown_as_in_english():
    done, english = run(**CHINESE), run()
    assert done.returncode == english.returncode
    assert done.stderr.decode().startswith("用法：") or done.stdout.decode().startswith("用法：")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["build", "--help"], ["buld"], ["build", "nosuch"]]
)
def test_english_does_not_change(arguments, monkeypatch):
    plain, named = run(*arguments), run(*arguments, LC_ALL="C.UTF-8", LANGUAGE="zh_CN")
    assert (plain.stdout, plain.stderr) == (named.stdout, named.stderr)
    assert plain.stdout.isascii()
    assert plain.stderr.isascii()


def test_json_stays_english():
    done = run("plan", "nosuch", "--json", **CHINESE)
    told = json.loads(done.stdout)
    assert told["message"].startswith("unknown recipe, expected a shipped one")
    assert told["hint"].isascii()
    assert "未知的配方" in done.stderr.decode()


@pytest.mark.parametrize("encoding", ["gbk", "gb2312", "ascii", "latin-1", "cp936"])
@pytest.mark.parametrize("arguments", [["--help"], ["build", "nosuch"], ["explain", "--list"]])
def test_a_terminal_of_another_encoding_is_written_in_it(encoding, arguments):
    done = run(*arguments, **CHINESE, PYTHONIOENCODING=encoding)
    assert done.returncode in {0, 10}
    text = (done.stdout + done.stderr).decode(encoding)
    assert ("未知" in text or "用法" in text or "：" in text) == encoding.startswith(("gb", "cp"))


def test_an_error_s_label_and_message_are_chinese(monkeypatch, capsys):
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    console.failure(RecipeError("unknown argument x", subject="y"))
    assert capsys.readouterr().err == "错误: y: 未知的参数 x\n"


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        ("! no passphrase: anyone who can read k can sign bundles that servers accept",
         "! 没有口令：能读取 k 的人都可以为离线包签名，并被服务器接受"),
        ("✗ host: little disk is left: 3 MB", "✗ host: disk 所剩不多：3 MB"),
        ("f: no such file; run the command again", "f: 没有这个文件; 重新运行该命令"),
        ("no such folder\nno such file", "没有这个文件夹\n没有这个文件"),
        ("prefix: expected a writable folder where programs may run, got /x, noexec",
         "安装目录：应为可写且允许运行程序的文件夹，实际为 /x, noexec"),
        ("✗ integrity: nothing is installed under /x", "✗ integrity: /x 下没有安装任何内容"),
        ("✓ host: 1.5 GB of disk free", "✓ host: 可用磁盘 1.5 GB"),
        ("    why: there is nothing to serve", "    原因：没有可以提供服务的内容"),
        ("recipe      to fetch   licence", "recipe      to fetch   licence"),
        ("unknown thing, expected one of a, b or c", "unknown thing, expected one of a, b or c"),
        ("the model answered: there is nothing there", "the model answered: there is nothing there"),
    ],
)  # fmt: skip
def test_a_rendered_message_is_matched_as_a_whole(text, chinese):
    assert Catalogue(catalogue_words()).translated(text) == chinese


def test_a_model_s_answer_and_a_log_are_never_translated(monkeypatch, capsys):
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    console.stream("no such file")
    console.verbatim("no such file")
    assert capsys.readouterr().out == "no such fileno such file\n"


def test_a_long_foreign_text_takes_no_time_and_stays():
    words = Catalogue(catalogue_words())
    text = "expected x, got y: " * 5000
    assert words.translated(text) == text


def test_lines_are_filled_by_columns_and_break_before_no_closing_mark():
    lines = filled("离线包的文件夹。默认：./RECIPE-bundle，或者 --out 给出的那一个。", 16)
    assert [sum(2 if ord(char) > 255 else 1 for char in line) <= 17 for line in lines]
    assert not any(line.startswith(("。", "，", "：")) for line in lines)
    assert (
        "".join(lines).replace(" ", "")
        == "离线包的文件夹。默认：./RECIPE-bundle，或者--out给出的那一个。"
    )
