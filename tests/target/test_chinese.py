"""The installer in Chinese, for a person whose environment asks for it, in every shell."""

import json
import re
import subprocess

import pytest

from llava_pack.target import main
from tests.support.bundle import change
from tests.support.chinese import INSTALL_SH

CHINESE = {"LANG": "zh_CN.UTF-8"}
SHELLS = ["dash", "bash --posix", "busybox ash"]
WEIGHTS = "model/tiny-llava/model-00001-of-00001.safetensors"


def in_chinese(text):
    return any("\u4e00" <= char <= "\u9fff" for char in text)


@pytest.mark.parametrize("body", SHELLS)
def test_every_shell_refuses_in_chinese(host, medium, body):
    env = {"CALLER_LANGUAGE": "zh"}
    done = host.install_sh(medium(), "--expect", "f" * 64, body=body, expect=False, env=env)
    assert done.returncode == 5
    assert done.stderr.startswith("错误：SHA256SUMS：应为离线包 ID ffff")
    assert done.stderr.rstrip().endswith("提示：这是另一个离线包，或它被改动过：与信息卡核对")


@pytest.mark.parametrize(
    ("environ", "chinese"),
    [
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW.utf8"}, True),
        ({"LANG": "de_DE.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}, True),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, True),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, False),
        ({"LANG": "C.UTF-8", "LANGUAGE": "zh_CN:en"}, False),
        ({"LANG": "zh_CN.GB18030"}, False),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en"}, False),
        ({"CALLER_LANGUAGE": "zh"}, False),
        ({}, False),
    ],
)
@pytest.mark.parametrize("shell", ["sh", "busybox ash"])
def test_the_script_reads_the_language_before_it_cleans_its_environment(
    host, medium, environ, chinese, shell
):
    done = host.install_sh(medium(), "--nonsense", env=environ, shell=shell)
    assert done.returncode == 2
    said = "错误：未知的参数 --nonsense\n" if chinese else "error: unknown argument --nonsense\n"
    assert done.stderr.startswith(said)


def test_busybox_s_sed_translates_as_well(tmp_path):
    (tmp_path / "sed").symlink_to("/bin/busybox")
    script = INSTALL_SH.read_text(encoding="utf-8")
    function = script[script.index("chinese() {") : script.index("chinese_usage() {")]
    done = subprocess.run(
        ["busybox", "ash", "-c", f'{function}\nchinese "$1"', "-", "a'b: cannot be copied"],
        env={"PATH": str(tmp_path), "LC_ALL": "C"}, capture_output=True, text=True, check=True,
        executable="/bin/busybox",
    )  # fmt: skip
    assert done.stdout == "a'b：无法拷贝"


def test_the_usage_is_chinese(host, medium):
    done = host.install_sh(medium(), "--help", env=CHINESE)
    assert done.returncode == 0
    assert done.stdout.startswith("用法：sh install.sh [--bundle DIR] ")
    english = host.install_sh(medium(), "--help")
    assert done.stdout.count("\n  --") == english.stdout.count("\n  --")


def test_progress_is_told_in_chinese_around_its_numbers(monkeypatch, capsys):
    monkeypatch.setenv("CALLER_LANGUAGE", "zh")
    monkeypatch.setattr(main, "_EVERY_S", 0.0)
    main._words.cache_clear()
    lines = main.Lines()
    lines.start("fetching wheels from a.example", 2_000_000_000)
    lines.advance(1_000_000_000)
    lines.done()
    main._words.cache_clear()
    amount = r"1\.0 GB，\S+ .?B/秒"
    step, end = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"从 a\.example 下载 wheel: {amount}, 剩余 [0-9:]+", step)
    assert re.fullmatch(rf"从 a\.example 下载 wheel: [0-9.]+ s, {amount}", end)


def test_an_installation_talks_chinese_and_its_receipt_does_not(host, medium):
    done = host.install_sh(medium(), env=CHINESE)
    assert done.returncode == 0, done.stderr
    assert "tiny 第 1 代安装完成；下一步：" in done.stderr
    assert not in_chinese(done.stdout)
    receipts = [path.read_text() for path in host.prefix.rglob("*") if "receipt" in path.name]
    assert receipts
    assert not any(map(in_chinese, receipts))


def test_what_the_installer_finds_is_said_in_chinese_and_stays_english_for_programs(host, medium):
    bad = medium()
    change(bad.root / WEIGHTS, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    done = host.install_sh(bad, "--json", env=CHINESE)
    assert done.returncode == 4
    assert WEIGHTS in done.stderr
    assert "提示: 重新拷贝列出的文件，然后运行同一条命令" in done.stderr
    told = json.loads(done.stdout)
    assert not in_chinese(json.dumps(told, ensure_ascii=False))
    assert "differ" in told["message"]


def test_a_refusal_of_the_script_stays_english_for_programs(host, medium):
    done = host.install_sh(medium(), "--json", "--nonsense", env=CHINESE)
    assert json.loads(done.stdout)["message"] == "unknown argument --nonsense"
