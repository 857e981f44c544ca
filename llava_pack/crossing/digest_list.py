"""The lists of digests that come back from a server: what it has, and what it needs."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from textwrap import wrap
from typing import Any

from llava_pack.format.digest_list import SHORT_DIGITS, ListKind, checksum
from llava_pack.format.errors import UsageError

_SHORT = re.compile(r"(have|need)[\s>]*:")
_WORD = re.compile(r"[0-9a-z]+")
_HEX = re.compile(r"[0-9a-f]+")
_KINDS: dict[str, ListKind] = {"have": "have", "need": "need"}
_WHOLE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class DigestList:
    """Digests of files and of chunks, whole or by their first digits."""

    kind: ListKind | None
    """None for a plain list of digests, such as SHA256SUMS."""
    digests: frozenset[str]
    bundle_id: str | None = None
    """Of the bundle that it was made for, where it says so."""

    def __contains__(self, digest: str) -> bool:
        return digest in self.digests or digest[:SHORT_DIGITS] in self.digests


def parse_digest_list(text: str) -> DigestList:
    """Return the digests in a text: JSON of `have` or `need`, a short form, or SHA256SUMS.

    Raises:
        UsageError: it is none of these, or a short form lost something on its way.
    """
    if text.lstrip().startswith("{"):
        return _from_json(text)
    if starts := [*_SHORT.finditer(text.lower())]:
        return _from_short(starts)
    found = [line.split()[0] for line in text.lower().splitlines() if line.strip()]
    if not found or not all(map(_WHOLE.fullmatch, found)):
        raise _unusable("expected `have:…`, `need:…`, their JSON, or a digest on each line")
    return DigestList(None, frozenset(found))


def _from_short(starts: Iterable[re.Match[str]]) -> DigestList:
    """Return the first short form: in prose, wrapped and quoted as mail programs do it."""
    for start in starts:
        words = [one[0] for one in _WORD.finditer(start.string, start.end())]
        words = [*takewhile(_HEX.fullmatch, words)]
        if (body := _body(words)) is not None:
            return DigestList(_KINDS[start[1]], frozenset(wrap(body, SHORT_DIGITS)))
        if sum(map(len, words)) >= SHORT_DIGITS:
            break  # a list that was spoiled, not a word of prose: no older one stands in for it
    raise _unusable("its checksum is wrong: it was cut, or mistyped")


def _body(words: Sequence[str]) -> str | None:
    """Return the digits before the checksum, out of as many words as make it right.

    A name below the list may look like digits: Dad, Abe. None where no number of words will do.
    """
    digits = "".join(words)
    for end in reversed([*accumulate(map(len, words))]):
        body = digits[: end - SHORT_DIGITS]
        right = end >= SHORT_DIGITS and end % SHORT_DIGITS == 0
        if right and digits[len(body) : end] == checksum(body):
            return body
    return None


def _from_json(text: str) -> DigestList:
    try:
        value = json.loads(text)
        kind = _KINDS[value["kind"]]
        digests = [_digest(one) for one in value["digests"]]
        bundle_id = _digest(value["bundle_id"]) if "bundle_id" in value else None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = "expected JSON with `kind` and `digests`, as have --json and need.json have them"
        raise _unusable(message) from error
    return DigestList(kind, frozenset(digests), bundle_id)


def _digest(value: Any) -> str:
    if not _WHOLE.fullmatch(value):
        raise ValueError(value)
    return str(value)


def _unusable(message: str) -> UsageError:
    hint = "copy it again, from its first word to its last digit"
    return UsageError(message, subject="the list of digests", hint=hint)
