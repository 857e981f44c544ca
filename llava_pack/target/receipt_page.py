"""The receipt as a page of text: what crossed the gap, and how it was checked."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from llava_pack.format.manifest import FileEntry, Manifest
from llava_pack.format.text import human_bytes, readable, visible
from llava_pack.target.receipt import Receipt

NAME = "receipt.txt"
_MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}
_WAYS = {
    "copied": "copied and hashed in one pass",
    "cloned": "cloned by the file system, the clone hashed",
    "linked": "linked, made read-only, then hashed",
    "moved": "moved off the medium, made read-only and hashed first",
    "stored": "already here, hashed again",
    "fetched": "fetched from the index, held against the manifest's hashes",
}


def render(receipt: Receipt, manifest: Manifest) -> str:
    """Return the page; every text from the bundle is shown as text."""
    return "".join(f"{visible(line)}\n" for line in _lines(receipt, manifest))


def mark(fact: Mapping[str, Any]) -> str:
    """Return one line about a fact of the machine: ✓, ! or ✗, value, need, and what fixes it."""
    need = f"{fact['name']}: {fact['value']} (need {fact['need']})"
    shown = need if fact["level"] == "ok" else f"{need}; fix: {fact['fix']}"
    return f"{_MARKS[fact['level']]} {shown}"


def _lines(receipt: Receipt, manifest: Manifest) -> Iterator[str]:
    yield f"RECEIPT: {manifest.recipe.title} ({receipt.recipe}), generation {receipt.generation}"
    yield ""
    yield f"bundle id     {receipt.bundle_id}"
    yield f"release       {_utc(receipt.release)}, made by {manifest.created_by}"
    yield f"licence       {manifest.licence.id}, {manifest.licence.url}"
    yield f"installed     {_utc(receipt.installed_at)} by {receipt.installed_by}"
    yield f"              on {receipt.python}"
    yield from ("", "WHY IT WAS TRUSTED")
    yield from _pairs(receipt.verified)
    yield from ("", "WHAT WAS CHECKED")
    size = human_bytes(receipt.size_bytes)
    yield f"✓ {receipt.files} files, {size}: SHA-256, {receipt.hashed_with}"
    for way, size_bytes in receipt.placed.items():
        yield f"    {human_bytes(size_bytes)} {_WAYS[way]}"
    yield from (readable(mark(fact)) for fact in receipt.preflight)
    for answer in receipt.smoke.get("answers", ()):
        said = answer if isinstance(answer, dict) else {"text": answer}
        who = said.get("reference")
        held = f"against what {who} recorded" if who else "by its words only"
        sign = "! wrong and accepted:" if said.get("accepted") else "✓"
        if "text" in said:
            yield f"{sign} known answer {said.get('name', '')}, {held}: {said['text']!r}"
        else:  # of an engine that was not started
            yield f"! accepted without being asked: known answer {said.get('name', '')}"
    yield ""
    yield "SILENCE: A FENCED PROCESS THAT CONTACTS ANOTHER HOST IS ENDED, AND THE INSTALL FAILS"
    yield from _pairs(receipt.silence)
    yield from ("", "FILES: SHA-256, BYTES, PATH, ORIGIN")
    yield from map(_file, sorted(manifest.files, key=lambda entry: entry.path))


def _pairs(facts: Mapping[str, Any]) -> Iterator[str]:
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
        yield f"  {name:<12}  {shown}"


def _file(entry: FileEntry) -> str:
    origin = entry.origin
    parts = [str(origin.get(key)) for key in ("kind", "repo", "commit", "tool") if origin.get(key)]
    return f"{entry.sha256}  {entry.size_bytes:>12}  {entry.path}  {' '.join(parts)}"


def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
