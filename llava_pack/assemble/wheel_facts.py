"""What a wheel says of itself: its licence, and the licence texts that it carries.

Source: the core metadata specification (License-Expression, PEP 639) and PEP 427's dist-info.
"""

import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from llava_pack.format.errors import IntegrityError

_INFO = re.compile(r"[^/]+\.dist-info/METADATA")
_TEXT = re.compile(
    r"[^/]+\.dist-info/(licen[cs]es/.+|(licen[cs]e|copying|notice|authors)[^/]*)", re.IGNORECASE
)
_LONGEST_NAME = 120
# Classifiers that name one licence, in SPDX's words. Source: PyPI's list of classifiers, spdx.org.
_CLASSIFIED = {
    "MIT License": "MIT",
    "Apache Software License": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "ISC License (ISCL)": "ISC",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}


@dataclass(frozen=True, kw_only=True)
class WheelFacts:
    """What one wheel says of itself.

    Attributes:
        licence: SPDX expression, or the publisher's words; empty where it says nothing.
        texts: names inside the wheel of the licence texts, sorted.
    """

    licence: str
    texts: tuple[str, ...]


def wheel_facts(path: Path) -> WheelFacts:
    """Read a wheel's metadata; nothing of it is run.

    Raises:
        IntegrityError: it is no wheel.
    """
    try:
        with zipfile.ZipFile(path) as wheel:
            names = wheel.namelist()
            found = [name for name in names if _INFO.fullmatch(name)]
            metadata = HeaderParser().parsestr(
                wheel.read(found[0]).decode(errors="replace") if found else ""
            )
    except (zipfile.BadZipFile, OSError) as error:
        raise IntegrityError(f"cannot be read as a wheel: {error}", subject=path.name) from error
    texts = (name for name in names if _TEXT.fullmatch(name) and not name.endswith("/"))
    return WheelFacts(licence=stated_licence(metadata), texts=tuple(sorted(texts)))


def wheel_texts(path: Path, facts: WheelFacts) -> bytes:
    """Return the licence texts of a wheel, one after the other, each under its name."""
    with zipfile.ZipFile(path) as wheel:
        parts = [f"==== {name} ====\n".encode() + wheel.read(name) for name in facts.texts]
    return b"\n".join(parts).replace(b"\r\n", b"\n")


def stated_licence(metadata: Message) -> str:
    r"""Return what a wheel's metadata calls its licence, in SPDX's words where they are known.

    >>> stated_licence(HeaderParser().parsestr("License-Expression: mit or apache-2.0\n"))
    'MIT OR Apache-2.0'
    >>> stated_licence(HeaderParser().parsestr("License: BSD\n"))
    'BSD'
    """
    words = [str(metadata.get("License-Expression") or ""), *_classified(metadata)]
    own = str(metadata.get("License") or "").strip().removeprefix("UNKNOWN")
    said = [word for word in (*words, own) if word]
    for word in said:
        if (known := spdx(word)) is not None:
            return known
    short = (line for line in said if len(line) <= _LONGEST_NAME and "\n" not in line)
    return next(short, own.partition("\n")[0].strip()[:_LONGEST_NAME])


def spdx(text: str) -> str | None:
    """Return a licence as an SPDX expression, None where it is none.

    >>> spdx("apache-2.0"), spdx("Llama-2-Community")
    ('Apache-2.0', None)
    """
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return None


def _classified(metadata: Message) -> Iterator[str]:
    named: Sequence[str] = [
        str(line).rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier", [])
        if str(line).startswith("License ::")
    ]
    if len(named) == 1:
        yield _CLASSIFIED.get(named[0], named[0])
