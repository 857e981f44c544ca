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
        "circle": "图里有什么？",  # noqa: RUF001 - Chinese punctuation
        "two": "图里有几样东西？",  # noqa: RUF001 - Chinese punctuation
        "square": "它是什么颜色？",  # noqa: RUF001 - Chinese punctuation
    },
}
"""About the example pictures."""

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "empty": "Add a picture and ask about it, or take an example.",
        "ask": "Ask about a picture: paste it, drop it here, or use the clip",
        "model": "Model",
        "parameters": "Parameters",
        "temperature": "Temperature: 0 always takes the likeliest word",
        "top_p": "Top p: share of the likely words to draw from",
        "max_tokens": "Longest answer, in tokens",
        "question": "Your question",
        "theme": "◐ Light / dark",
    },
    "zh": {
        "empty": "添加一张图片并提问，或选一个示例。",  # noqa: RUF001 - Chinese punctuation
        "ask": "就图片提问：粘贴、拖放，或点回形针上传",  # noqa: RUF001 - Chinese punctuation
        "model": "模型",
        "parameters": "参数",
        "temperature": "温度：0 总取最可能的词",  # noqa: RUF001 - Chinese punctuation
        "top_p": "Top p：从多大比例的可能词中抽取",  # noqa: RUF001 - Chinese punctuation
        "max_tokens": "回答的最大长度（词元）",  # noqa: RUF001 - Chinese punctuation
        "question": "您的问题",
        "theme": "◐ 浅色 / 深色",
    },
}
STATUS: dict[Language, dict[str, str]] = {
    "en": {
        "on": "{precision} on {device}",
        "context": "{tokens} tokens of context",
        "queue": "{running} answering, {waiting} waiting",
        "speed": "{tokens} tokens, {rate:.1f} tokens/s, first after {first:.2f} s",
        "nothing": "(no answer)",
    },
    "zh": {
        "on": "{precision}，{device}",  # noqa: RUF001 - Chinese punctuation
        "context": "上下文 {tokens} 词元",
        "queue": "{running} 个回答中，{waiting} 个等待",  # noqa: RUF001 - Chinese punctuation
        "speed": "{tokens} 词元，{rate:.1f} 词元/秒，首词 {first:.2f} 秒",  # noqa: RUF001
        "nothing": "（没有回答）",  # noqa: RUF001 - Chinese punctuation
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
