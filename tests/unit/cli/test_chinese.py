"""The command line in Chinese: what a person reads, and what programs read all the same."""

import io
import json
import os
import subprocess
import sys
import time

import pytest

from llava_pack.cli import console, main
from llava_pack.cli.help_pages import filled
from llava_pack.format.errors import RecipeError
from llava_pack.format.translation import Catalogue
from llava_pack.serve.run_state import RunState
from llava_pack.serve.supervision.announcement import announcement
from llava_pack.serve.tunnel_lines import endpoint
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
    assert "\n在笔记本上：\n" in page
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
         "prefix：应为可写且允许运行程序的文件夹，实际为 /x, noexec"),
        ("✗ integrity: nothing is installed under /x", "✗ integrity: /x 下没有安装任何内容"),
        ("✓ host: 1.5 GB of disk free", "✓ host: 可用磁盘 1.5 GB"),
        ("    why: there is nothing to serve", "    原因：没有可以提供服务的内容"),
        ("weights: no such file", "weights: 没有这个文件"),
        ("f: weights", "f: weights"),
        ("✓ demo: nf4 on cpu, 1024 tokens, 4 slots", "✓ demo：nf4，在 cpu 上，1024 个 token，4 个槽位"),
        ("cannot be read: weights", "无法读取：weights"),
        ("recipe      to fetch   licence", "recipe      to fetch   licence"),
        ("unknown thing, expected one of a, b or c", "unknown thing, expected one of a, b or c"),
        ("the model answered: there is nothing there", "the model answered: there is nothing there"),
    ],
)  # fmt: skip
def test_a_rendered_message_is_matched_as_a_whole(text, chinese):
    assert Catalogue(catalogue_words()).translated(text) == chinese


@pytest.mark.parametrize(
    ("subject", "shown"),
    [("weights", "weights"), ("prefix", "prefix"), ("/a/no such file", "/a/no such file"),
     ("--out", "--out"), ("hop: ssh login", "这一跳：ssh 登录"),
     ("hop: sshd's policy", "这一跳：sshd 的策略")],
)  # fmt: skip
def test_a_subject_stays_unless_it_is_words_of_ours(subject, shown, monkeypatch, capsys):
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    console.failure(RecipeError("unknown argument x", subject=subject))
    assert capsys.readouterr().err == f"错误: {shown}: 未知的参数 x\n"


def test_a_key_and_its_row_are_shown_as_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    file = str(tmp_path / "keys.json")
    assert main(["keys", "add", "weights", "--file", file]) == 0
    key = capsys.readouterr().out
    assert key.isascii()
    assert main(["keys", "list", "--file", file]) == 0
    row = capsys.readouterr().out
    assert row.startswith("weights  ")
    assert "创建于" in row


def test_a_phase_is_translated_apart_from_its_numbers(monkeypatch):
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    out, now = io.StringIO(), [0.0]
    bar = console.ConsoleProgress(out, clock=lambda: now[0])
    bar.start("fetching wheels from a.example", 4_000_000_000)
    now[0] = 10.0
    bar.advance(1_000_000_000)
    bar.done()
    bar.start("llava: weights", None)
    assert out.getvalue().splitlines() == [
        "从 a.example 下载 wheel (4.0 GB) …",
        "从 a.example 下载 wheel: 1.0 GB / 4.0 GB（25 %）, 100.0 MB/s, 剩余 0:30",
        "从 a.example 下载 wheel: 10.0 s  1.0 GB，100.0 MB/秒",
        "llava: 加载权重 …",
    ]


@pytest.mark.parametrize(
    "connection", ["192.0.2.1 5 8.8.4.4 2222", "192.0.2.1 5 10.0.0.4 2222", None]
)
@pytest.mark.parametrize("public_url", ["", "https://llava.corp/vlm"])
@pytest.mark.parametrize("keeps_token", [True, False])
@pytest.mark.parametrize("user", ["ada", ""])
def test_what_a_ready_server_tells_is_chinese(connection, public_url, keeps_token, user):
    state = RunState(
        pid=1, host="127.0.0.1", port=7861, token="t0k", socket=None, models=("demo",), started=1,
        bundle_id=None, public_url=public_url, keeps_token=keeps_token,
    )  # fmt: skip
    to = endpoint(
        ssh_connection=connection, user=user, hostname="", host=state.host, port=state.port
    )
    words = Catalogue(catalogue_words())
    for line in announcement(state, to, web=True).more:
        if line.startswith("  ") and "Tunnels" not in line:  # what is pasted
            assert words.translated(line) == line
        elif line:
            assert not words.translated(line).isascii(), line


def test_a_model_s_answer_and_a_log_are_never_translated(monkeypatch, capsys):
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    console.stream("no such file")
    console.verbatim("no such file")
    assert capsys.readouterr().out == "no such fileno such file\n"


def test_a_long_foreign_text_takes_no_time_and_stays():
    words = Catalogue(catalogue_words())
    text = "expected x, got y: " * 5000
    assert words.translated(text) == text


@pytest.mark.parametrize(
    "text",
    [
        ", ".join(f"'key{n}': 'v{n}'" for n in range(400))[:4000],
        ", ".join(f"'key{n}': 'v{n}'" for n in range(400))[:528],
        json.dumps({"error": {"items": [{"id": n, "state": "a; b: c"} for n in range(100)]}})[
            :4000
        ],
        "mirror a: " * 400,
        "a; " * 1300,
        "a: b; c\n" * 100_000,
    ],
    ids=["keys", "few keys", "json", "colons", "list", "lines"],
)
def test_a_text_of_many_parts_takes_no_time(text):
    words = Catalogue(catalogue_words())
    words.translated("no such file; run the command again")
    began_s = time.perf_counter()
    words.translated(text)
    assert time.perf_counter() - began_s < 1.0


def test_lines_are_filled_by_columns_and_break_before_no_closing_mark():
    lines = filled("离线包的文件夹。默认：./RECIPE-bundle，或者 --out 给出的那一个。", 16)
    assert [sum(2 if ord(char) > 255 else 1 for char in line) <= 17 for line in lines]
    assert not any(line.startswith(("。", "，", "：")) for line in lines)
    assert (
        "".join(lines).replace(" ", "")
        == "离线包的文件夹。默认：./RECIPE-bundle，或者--out给出的那一个。"
    )
