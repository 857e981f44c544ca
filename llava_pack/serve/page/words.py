"""What the page says, in English and Chinese; the browser's language decides."""

from collections.abc import Mapping
from typing import Literal

from llava_pack.format.text import Language

Drawn = Literal["circle", "two", "square"]
QUESTIONS: Mapping[Language, Mapping[Drawn, str]] = {
    "en": {
        "circle": "What is in the picture?",
        "two": "How many things are there?",
        "square": "What colour is it?",
    },
    "zh": {
        "circle": "图片里有什么？",  # noqa: RUF001 - Chinese punctuation
        "two": "图片里有几个物体？",  # noqa: RUF001 - Chinese punctuation
        "square": "它是什么颜色？",  # noqa: RUF001 - Chinese punctuation
    },
}
"""About the example pictures."""

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "empty": "Add a picture and ask about it, or try an example.",
        "ask": "Ask about a picture: paste it, drop it here, or click the paper clip",
        "model": "Model",
        "parameters": "Parameters",
        "temperature": "Temperature: 0 always picks the most likely token",
        "top_p": "Top p: probability mass of the tokens to sample from",
        "max_tokens": "Maximum answer length, in tokens",
        "question": "Your question",
        "theme": "◐ Light / dark",
    },
    "zh": {
        "empty": "添加一张图片并提问，或试试下面的示例。",  # noqa: RUF001 - Chinese punctuation
        "ask": "就图片提问：可粘贴、拖放图片，或点击回形针上传",  # noqa: RUF001 - Chinese punctuation
        "model": "模型",
        "parameters": "参数",
        "temperature": "温度：0 表示始终选择概率最高的 token",  # noqa: RUF001 - Chinese punctuation
        "top_p": "Top p：采样时保留的累积概率",  # noqa: RUF001 - Chinese punctuation
        "max_tokens": "回答的最大长度（token 数）",  # noqa: RUF001 - Chinese punctuation
        "question": "您的问题",
        "theme": "◐ 浅色 / 深色",
    },
}
STATUS: dict[Language, dict[str, str]] = {
    "en": {
        "on": "{precision} on {device}",
        "context": "context of {tokens} tokens",
        "queue": "{running} running, {waiting} waiting",
        "speed": "{tokens} tokens, {rate:.1f} tokens/s, first token after {first:.2f} s",
        "nothing": "(no answer)",
        "blank": "⚠ Picture {number} has only one colour, {colour}: the model sees nothing",
    },
    "zh": {
        "on": "{precision}，{device}",  # noqa: RUF001 - Chinese punctuation
        "context": "上下文 {tokens} token",
        "queue": "{running} 个请求运行中，{waiting} 个排队",  # noqa: RUF001 - Chinese punctuation
        "speed": "{tokens} token，{rate:.1f} token/秒，首 token 延迟 {first:.2f} 秒",  # noqa: RUF001
        "nothing": "（没有回答）",  # noqa: RUF001 - Chinese punctuation
        "blank": "⚠ 图片 {number} 只有一种颜色（{colour}）：模型看到的是空白图片",  # noqa: RUF001
    },
}
# Gradio looks up the browser's own tag; these are the Chinese ones that browsers send.
CHINESE_TAGS = ("zh", "zh-CN", "zh-TW", "zh-HK", "zh-SG", "zh-Hans", "zh-Hant")


def language_of(accept_language: str) -> Language:
    """Return the language of a page for what its browser asks for first.

    >>> language_of("zh-CN,zh;q=0.9,en;q=0.8")
    'zh'
    >>> language_of("de,zh;q=0.5")
    'en'
    """
    return "zh" if accept_language.strip().lower().startswith("zh") else "en"


def translations() -> dict[str, dict[str, str]]:
    """Return the words by the tags that a browser may have."""
    return {"en": WORDS["en"], **dict.fromkeys(CHINESE_TAGS, WORDS["zh"])}
