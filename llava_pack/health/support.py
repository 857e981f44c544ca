"""What somebody who cannot see the machine needs to help: known fields only, in one small file.

Nothing is copied. Each document is made of the fields that `documents` lists, each value held
against its shape; what does not fit stays on the machine and is counted. Only the standard library
is needed: it has to work where nothing else does.
"""

import gzip
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from llava_pack.health import vocabulary
from llava_pack.health.evidence import Document, Reader
from llava_pack.health.knowledge import known_failures, recognise
from llava_pack.health.redaction import Redactor
from llava_pack.health.shapes import LEFT_OUT, Told

MAX_BYTES = 5_000_000
"""Of the finished file."""
UNREVIEWED = "UNREVIEWED-logs"
"""The folder of what was not made of known fields."""
_WITHIN_S = 20.0
_FOLDER = "llava-pack-support"
_SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class SupportContents:
    """What goes into the file."""

    documents: Mapping[str, str]
    """Their texts by name, in order."""
    left_out: Mapping[str, int]
    """How many values of each stayed on the machine."""
    redacted: Mapping[str, int]
    """How many values were taken out of logs that were asked for, by kind."""
    dropped: tuple[str, ...]
    """Documents that were left out to keep it small, or because a known secret was in them."""
    known: tuple[str, ...]
    """Codes of known failures that were recognised."""

    @property
    def files(self) -> Mapping[str, int]:
        """Characters by name."""
        return {name: len(text) for name, text in self.documents.items()}

    def lines(self) -> Iterator[str]:
        """Yield what is in it, for a person to look at before it is written."""
        for name, size in self.files.items():
            stayed = self.left_out.get(name, 0)
            yield f"  {name}: {size} characters" + (f"; {stayed} values stay" if stayed else "")
        for name in self.dropped:
            yield f"  {name}: left out"


def collect(
    parts: Mapping[str, Document],
    *,
    salt: bytes,
    secrets: Sequence[str] = (),
    logs: Mapping[str, Reader] | None = None,
    redactor: Redactor | None = None,
) -> SupportContents:
    """Return what a support bundle holds.

    Args:
        parts: by the name of the document.
        salt: random bytes, drawn for this bundle.
        secrets: values that are known to be secret: a document in which one stood is dropped.
        logs: what a person asked for beside the documents, by name.
        redactor: what those go through.
    """
    told = Told(salt=salt)
    texts: dict[str, str] = {}
    known: list[str] = []
    for name, raw in _run({name: part.read for name, part in parts.items()}):
        told.document = name
        texts[name] = _document(parts[name], raw, told)
        if parts[name].tells and not isinstance(raw, Exception):
            said = raw if isinstance(raw, str) else json.dumps(raw, default=str)
            known += [one.id for one in recognise(said, known_failures())]
    redactor = redactor or Redactor({})
    for name, raw in _run(logs or {}):
        texts[f"{UNREVIEWED}/{name}"] = (
            _why(raw) if isinstance(raw, Exception) else redactor.text(raw)
        )
    dropped = [name for name, text in texts.items() if any(one in text for one in secrets if one)]
    for name in dropped:
        del texts[name]
    while len(_packed(texts)) > MAX_BYTES:
        largest = max(texts, key=lambda name: len(texts[name]))
        dropped.append(largest)
        del texts[largest]
    contents = SupportContents(
        documents=texts,
        left_out={name: told.left_out[name] for name in texts if told.left_out[name]},
        redacted=dict(redactor.counts),
        dropped=tuple(dropped),
        known=tuple(dict.fromkeys(known)),
    )
    return _with_about(contents)


def packed(contents: SupportContents) -> bytes:
    """Return the bytes of the .tar.gz."""
    return _packed(contents.documents)


def _document(part: Document, raw: Any, told: Told) -> str:
    if isinstance(raw, Exception):
        return _why(raw)
    try:
        shown = None if raw is None else part.shape.admit(raw, told)
    except Exception as error:  # noqa: BLE001 - one document never ends the others
        return _why(error)
    facts = {} if shown is LEFT_OUT else shown
    value = {"schema": _SCHEMA, "facts": facts, "stays": told.left_out[told.document]}
    return json.dumps(value, indent=1) + "\n"


def _why(error: Exception) -> str:
    """Return that something could not be read; the error's text may hold anything, and stays."""
    name = type(error).__name__
    kind = name if name in vocabulary.EXCEPTIONS else "another error"
    errno = getattr(error, "errno", None)
    facts = {"could_not_be_read": kind} | ({"errno": errno} if isinstance(errno, int) else {})
    return json.dumps({"schema": _SCHEMA, **facts}, indent=1) + "\n"


def _run(readers: Mapping[str, Reader]) -> Iterator[tuple[str, Any]]:
    """Yield what each reader returns, or the error why there is nothing."""
    pool = ThreadPoolExecutor(max_workers=8)
    try:
        running = {name: pool.submit(reader) for name, reader in readers.items()}
        for name, future in running.items():
            try:
                yield name, future.result(timeout=_WITHIN_S)
            except Exception as error:  # noqa: BLE001 - one reader never ends the others
                yield name, error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _with_about(contents: SupportContents) -> SupportContents:
    lines = [
        "A llava-pack support bundle: plain text, made of known fields only.",
        "",
        "Numbers, versions, digests and words from a fixed list are included; every other value",
        "stays here and is counted. `own model 1` replaces one name of yours throughout.",
        "`same_as` marks equal lines that stay here, by a hash whose salt was discarded.",
        "",
        "Known failures (llava-pack explain CODE):",
        *([f"  {code}" for code in contents.known] or ["  none"]),
        "",
        "Documents:",
        *contents.lines(),
    ]
    if any(name.startswith(UNREVIEWED) for name in contents.documents):
        lines += [
            "",
            f"{UNREVIEWED} was requested. It holds logs from which a program removed what looks",
            "private. A program cannot be certain: READ THEM before you send this.",
            *(f"  removed: {n} {kind}" for kind, n in sorted(contents.redacted.items())),
        ]
    about = "\n".join(lines) + "\n"
    return replace(contents, documents={"ABOUT.txt": about, **contents.documents})


def _packed(texts: Mapping[str, str]) -> bytes:
    out = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for name, text in texts.items():
            data = text.encode(errors="replace")
            entry = tarfile.TarInfo(f"{_FOLDER}/{name}")
            entry.size, entry.mode = len(data), 0o600
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()
