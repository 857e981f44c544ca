"""Which language a person reads: what the environment says, else that of Windows' menus."""

import locale
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from llava_pack.format.text import Language
from llava_pack.format.translation import Catalogue, read_catalogue

_ENGLISH = "en"
_LOCALES = ("LC_ALL", "LC_MESSAGES", "LANG")
"""Source: locale(7): the first that is set decides."""


def system_language(environ: Mapping[str, str]) -> str:
    """Return the person's language as a tag like `zh-CN`, `en` where none is known.

    LANGUAGE goes first, as in gettext, unless the locale is `C`.

    >>> system_language({"LANG": "zh_CN.UTF-8"}), system_language({"LC_ALL": "C", "LANG": "zh_CN"})
    ('zh-CN', 'en')
    >>> system_language({"LANGUAGE": "zh_TW:en", "LANG": "en_US.UTF-8"})
    'zh-TW'
    """
    chosen = next((environ[name] for name in _LOCALES if environ.get(name)), "")
    if chosen.partition(".")[0] in {"C", "POSIX"}:
        return _ENGLISH
    preferred = environ.get("LANGUAGE", "").partition(":")[0]
    return _tag(preferred or chosen or _interface()) or _ENGLISH


def _tag(name: str) -> str:
    """Return a locale's name without encoding and variant, written as a tag.

    >>> _tag("de_AT.UTF-8@euro")
    'de-AT'
    """
    return name.partition(".")[0].partition("@")[0].replace("_", "-")


if sys.platform == "win32":

    def _interface() -> str:
        """Return the locale of the menus of Windows, which sets no LANG."""
        import ctypes

        identifier = ctypes.windll.kernel32.GetUserDefaultUILanguage()
        return locale.windows_locale.get(identifier, "")
else:

    def _interface() -> str:
        return ""


def language_of(environ: Mapping[str, str]) -> Language:
    """Return the language of our messages: Chinese if the person reads it and it can be written.

    >>> language_of({"LANG": "de_DE.UTF-8"})
    'en'
    """
    return "zh" if system_language(environ).lower().startswith("zh") and _writable() else "en"


def translated(text: str) -> str:
    """Return a message in the person's language."""
    return text if language_of(os.environ) == "en" else _chinese().translated(text)


def own_phrase(text: str) -> str:
    """Return a subject in the person's language if it is words of ours, and no name."""
    return text if language_of(os.environ) == "en" else _chinese().phrase(text)


def _writable() -> bool:
    """Return whether data and talk can both be written in Chinese characters."""
    try:
        for stream in (sys.stdout, sys.stderr):
            "中".encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeError:
        return False
    return True


@cache
def _chinese() -> Catalogue:
    """Return the catalogue, read only where it is needed."""
    here = Path(__file__)
    return read_catalogue(here.with_name("zh.toml"), here.parents[1] / "target" / "zh.toml")
