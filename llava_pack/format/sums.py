"""SHA256SUMS: what `sha256sum -c` reads, and whose own digest is the bundle id.

Source: docs/reference/bundle-format.md, "SHA256SUMS".
"""

import hashlib
import re
from collections.abc import Mapping

from llava_pack.format.errors import IntegrityError, UsageError
from llava_pack.format.paths import check_unique, path_defect
from llava_pack.format.records import summary

SUMS_NAME = "SHA256SUMS"
MANIFEST_NAME = "MANIFEST.json"
UNLISTED = frozenset(
    {SUMS_NAME, "SHA256SUMS.sig", "SHA256SUMS.sshsig", "key.pem", "START-HERE.txt"}
)
LOCK = "lock/pylock.toml"
"""Of the environment that llava-pack itself runs in."""
ENGINE_LOCK = "lock/pylock.engine.toml"
"""Of the one that an engine of the field runs in; only a bundle of such an engine has it."""
PARITY_FOLDER = "parity"
"""Of recovery volumes: beside a bundle's files, never listed, and evidence of nothing."""
MAX_FILES = 10_000
MAX_SUMS_BYTES = 4 * 1024 * 1024
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_PARITY = re.compile(rf"{PARITY_FOLDER}/[A-Za-z0-9_][A-Za-z0-9._+-]*\.par2")
_EXPECT = re.compile(r"[0-9a-f]{32,64}")


def render_sums(entries: Mapping[str, str]) -> bytes:
    """Return SHA256SUMS for paths and their digests, sorted by path.

    Raises:
        IntegrityError: a path may not be in a bundle, or must not be listed.
    """
    text = "".join(f"{digest}  {path}\n" for path, digest in sorted(entries.items()))
    data = text.encode("utf-8", "backslashreplace")
    parse_sums(data)
    return data


def parse_sums(data: bytes) -> dict[str, str]:
    """Return the digest of each path.

    Raises:
        IntegrityError: naming every line that is malformed, out of order, listed twice, not
            allowed, or that collides with another.
    """
    if len(data) > MAX_SUMS_BYTES:
        raise IntegrityError(f"expected at most {MAX_SUMS_BYTES} bytes", subject=SUMS_NAME)
    if data.count(b"\n") > MAX_FILES:
        raise IntegrityError(f"expected at most {MAX_FILES} lines", subject=SUMS_NAME)
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        message = f"expected ASCII text, got byte {data[error.start]:#x} at {error.start}"
        raise IntegrityError(message, subject=SUMS_NAME) from error
    if not text.endswith("\n"):
        raise IntegrityError(
            "expected a final newline: the file may be truncated", subject=SUMS_NAME
        )
    entries: dict[str, str] = {}
    defects: list[str] = []
    last = ""
    for number, line in enumerate(text[:-1].split("\n"), start=1):
        match = _LINE.fullmatch(line)
        defect = _defect(match[2], last) if match else "expected '<64 hex digits>  <path>'"
        if defect:
            defects.append(f"line {number}: {defect}")
        elif match:
            last = match[2]
            entries[last] = match[1]
    if defects:
        raise IntegrityError(summary(defects), subject=SUMS_NAME)
    check_unique(entries)
    return entries


def _defect(path: str, last: str) -> str | None:
    if path in UNLISTED:
        return f"{path} must not be listed"
    if path <= last:
        return f"{path!r} is listed twice" if path == last else f"{path!r} is out of order"
    return path_defect(path)


def is_parity(path: str) -> bool:
    """Say whether a path is one of a recovery volume.

    >>> is_parity("parity/parity.vol00+10.par2"), is_parity("parity/x/parity.par2")
    (True, False)
    """
    return _PARITY.fullmatch(path) is not None


def bundle_id(sums: bytes) -> str:
    """Return the id of a bundle, 64 hex digits, from the bytes of its SHA256SUMS."""
    return hashlib.sha256(sums).hexdigest()


def pasted_id(text: str) -> str:
    """Return the digits of an id as it was pasted: quoted, in groups, in capitals, `sha256:`.

    Raises:
        UsageError: it was shortened with an ellipsis.

    >>> pasted_id(" 'SHA256:4F1C 0A2B' ")
    '4f1c0a2b'
    """
    if "…" in text or "..." in text:
        raise UsageError(
            f"the id is shortened, got {text!r}",
            subject="--expect",
            hint="paste at least its first 32 digits",
        )
    return re.sub(r"[\s\"'`]", "", text).lower().removeprefix("sha256:")


def matches_expected(bundle: str, expect: str) -> bool:
    """Say whether the id `bundle` is the one that `--expect` names, whole or by its first digits.

    Raises:
        UsageError: `expect` is not 32 to 64 hex digits.
    """
    digits = pasted_id(expect)
    if not _EXPECT.fullmatch(digits):
        raise UsageError(
            f"expected 32 to 64 hex digits, got {expect!r}",
            subject="--expect",
            hint="type the bundle id from the card that `llava-pack build` printed",
        )
    return bundle.startswith(digits)
