"""The language of the person at the keyboard, from the environment that programs agree on."""

import io
import sys

import pytest

from llava_pack.cli.language import language_of, system_language


@pytest.mark.parametrize(
    ("environ", "tag"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh-CN"),
        ({"LANG": "de_DE.UTF-8", "LC_MESSAGES": "zh_CN"}, "zh-CN"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "de_AT@euro"}, "de-AT"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, "zh-CN"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C.UTF-8", "LANGUAGE": "zh_CN:en"}, "en"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh-CN"),
        ({"LANGUAGE": "zh"}, "zh"),
    ],
)
def test_the_first_variable_that_is_set_decides(environ: dict[str, str], tag: str) -> None:
    assert system_language(environ) == tag


@pytest.mark.parametrize(
    ("locale", "language"), [("zh_CN.UTF-8", "zh"), ("zh_TW", "zh"), ("", "en"), ("de_DE", "en")]
)
def test_messages_are_chinese_for_who_reads_it(locale: str, language: str) -> None:
    assert language_of({"LANG": locale}) == language


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_terminal_without_chinese_characters_gets_english(
    stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert language_of({"LANG": "zh_CN.UTF-8"}) == "en"
