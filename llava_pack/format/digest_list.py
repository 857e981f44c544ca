"""What a machine has, or needs, in a form so short that it is pasted.

The short form is `have:` or `need:` and the first 8 digits of each digest, sorted, with 8 digits of
a checksum at the end, so that a message that was cut or mistyped is noticed. Nothing is trusted
because of it: it decides what travels, and every byte that arrives is hashed.
"""

from collections.abc import Iterable
from hashlib import sha256
from textwrap import wrap
from typing import Literal

SHORT_DIGITS = 8
_COLUMNS = 72
ListKind = Literal["have", "need"]


def short_form(kind: ListKind, digests: Iterable[str]) -> str:
    r"""Return the short form, in lines of 72 characters.

    >>> short_form("have", ["ab" * 32])
    'have:abababab9ba3d1c7'
    """
    digits = "".join(sorted({digest[:SHORT_DIGITS] for digest in digests}))
    return "\n".join(wrap(f"{kind}:{digits}{checksum(digits)}", _COLUMNS))


def checksum(digits: str) -> str:
    """Return what a short form ends with, of the digits before it."""
    return sha256(digits.encode()).hexdigest()[:SHORT_DIGITS]
