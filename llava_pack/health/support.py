"""What somebody who cannot see the machine needs to help: collected, redacted, in one small file.

Only the standard library is needed: it has to work where nothing else does. Every collector has a
time-out, and one that fails says so in its own file.
"""

import gzip
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from llava_pack.health.knowledge import known_failures, recognise
from llava_pack.health.redaction import Redactor

MAX_BYTES = 5_000_000
"""Of the finished file."""
_LOG_BYTES = 1_000_000
_FILE_CHARS = 2_000_000
_WITHIN_S = 20.0
_SAY_WHY = ("logs/", "service", "kernel", "health")
"""Files in which programs say what went wrong."""
_SETTINGS = ("LLAVA_PACK_", "HF_", "CUDA_", "NVIDIA_", "LD_", "PYTHON", "OMP_", "UV_", "PIP_")
_SETTINGS_TOO = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "lang", "lc_all", "tz")

Collector = Callable[[], str]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What went into the file."""

    files: Mapping[str, int]
    """Characters by name, redacted."""
    redacted: Mapping[str, int]
    """How many values were taken out, by kind."""
    dropped: tuple[str, ...]
    """Files that were left out to keep it small."""
    known: tuple[str, ...]
    """Codes of known failures that were recognised."""


def collect(collectors: Mapping[str, Collector], redactor: Redactor) -> tuple[bytes, Contents]:
    """Return the bytes of a .tar.gz and what is in it.

    Args:
        collectors: by the name of the file that each one fills.
        redactor: what every text goes through before it is kept.
    """
    texts = {name: redactor.text(text) for name, text in _run(collectors)}
    said = "\n".join(text for name, text in texts.items() if name.startswith(_SAY_WHY))
    known = tuple(one.id for one in recognise(said, known_failures()))
    dropped: list[str] = []
    while True:
        about = _about(texts, redactor.counts, dropped, known)
        data = _packed({"ABOUT.txt": about, **texts})
        if len(data) <= MAX_BYTES or not texts:
            break
        largest = max(texts, key=lambda name: len(texts[name]))
        dropped.append(largest)
        del texts[largest]
    sizes = {name: len(text) for name, text in texts.items()}
    contents = Contents(
        files=sizes, redacted=dict(redactor.counts), dropped=tuple(dropped), known=known
    )
    return data, contents


def command(arguments: Sequence[str], timeout_s: float = 5.0) -> Collector:
    """Return a collector of what a command prints."""

    def run() -> str:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
        said = done.stdout[-_LOG_BYTES:].decode(errors="replace")
        return f"$ {' '.join(arguments)}\n{said}[exit code {done.returncode}]\n"

    return run


def tail(path: Path, size_bytes: int = _LOG_BYTES) -> Collector:
    """Return a collector of the end of a file."""

    def read() -> str:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(stream.tell() - size_bytes, 0))
            return stream.read(size_bytes).decode(errors="replace")

    return read


def settings(environ: Mapping[str, str]) -> str:
    """Return the variables that change what llava-pack and its libraries do."""
    chosen = {
        name: value
        for name, value in sorted(environ.items())
        if name.startswith(_SETTINGS) or name.lower() in _SETTINGS_TOO
    }
    secret = ("TOKEN", "KEY", "SECRET", "PASSWORD")
    lines = [
        f"{name}={'(set)' if any(part in name.upper() for part in secret) else value}"
        for name, value in chosen.items()
    ]
    return "\n".join(lines) + "\n"


def versions() -> str:
    """Return the packages of the running environment."""
    found = {(d.metadata["Name"] or "?").lower(): d.version for d in metadata.distributions()}
    return "".join(f"{name}=={found[name]}\n" for name in sorted(found))


def installed_files(prefix: Path) -> dict[str, Collector]:
    """Return collectors of what an installation says of itself: receipts, manifests, journal."""
    found = {"journal.json": prefix / "journal.json"}
    for path in sorted(prefix.glob("models/*/generations/*/receipt.json")):
        recipe, number = path.parts[-4], path.parts[-2]
        found[f"receipts/{recipe}-{number}.json"] = path
    collectors: dict[str, Collector] = {
        name: tail(path) for name, path in found.items() if path.is_file()
    }
    for path in sorted(prefix.glob("models/*/generations/*/MANIFEST.json")):
        recipe, number = path.parts[-4], path.parts[-2]
        collectors[f"manifests/{recipe}-{number}.json"] = _Manifest(path)
    return collectors


@dataclass(frozen=True)
class _Manifest:
    """A manifest without its files and pictures: they are many, and support does not need them."""

    path: Path

    def __call__(self) -> str:
        value: dict[str, Any] = json.loads(self.path.read_bytes())
        value["files"] = f"{len(value['files'])} files"
        value["known_answers"] = f"{len(value.get('known_answers', ()))} known answers"
        return json.dumps(value, indent=1) + "\n"


def _run(collectors: Mapping[str, Collector]) -> Iterator[tuple[str, str]]:
    """Yield each collector's text, or why there is none."""
    pool = ThreadPoolExecutor(max_workers=8)
    try:
        running = {name: pool.submit(collector) for name, collector in collectors.items()}
        for name, future in running.items():
            try:
                yield name, future.result(timeout=_WITHIN_S)[-_FILE_CHARS:]
            except TimeoutError:
                yield name, f"could not be collected: not within {_WITHIN_S:g} s\n"
            except Exception as error:  # noqa: BLE001 - one collector never ends the others
                yield name, f"could not be collected: {type(error).__name__}: {error}\n"
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _about(
    texts: Mapping[str, str],
    counts: Mapping[str, int],
    dropped: Sequence[str],
    known: Sequence[str],
) -> str:
    lines = ["A llava-pack support bundle. Read it before you send it: it is plain text.", ""]
    lines += ["Taken out before anything was written (one value keeps one mark throughout):"]
    lines += [f"  {kind}: {count}" for kind, count in sorted(counts.items())] or ["  nothing"]
    lines += ["", "Known failures in it (llava-pack explain CODE):"]
    lines += [f"  {code}" for code in known] or ["  none"]
    lines += ["", "Files:"]
    lines += [f"  {name}: {len(text)} characters" for name, text in texts.items()]
    lines += [f"  {name}: left out to keep this small" for name in dropped]
    return "\n".join(lines) + "\n"


def _packed(texts: Mapping[str, str]) -> bytes:
    out = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        for name, text in texts.items():
            data = text.encode(errors="replace")
            entry = tarfile.TarInfo(f"llava-pack-support/{name}")
            entry.size, entry.mode = len(data), 0o600
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()
