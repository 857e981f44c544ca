"""The content-addressed cache on the packing side.

<root>/sha256/ab/<sha256>   verified files, read-only
<root>/stamps/<sha256>      size and mtime when verified: an edited file is noticed and dropped
<root>/refs/<key>           the sha256 found earlier under a git blob id or an address
<root>/parts/<key>.*        unfinished files, their validator and lock
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from llava_pack.format import files
from llava_pack.format.errors import UsageError

_SHA256 = re.compile(r"[0-9a-f]{64}")


def default_root(environ: Mapping[str, str], platform: str = sys.platform) -> Path:
    """Return the cache's place: LLAVA_PACK_CACHE, else where this system keeps caches.

    That is XDG_CACHE_HOME, else LOCALAPPDATA on Windows and ~/.cache elsewhere.

    >>> default_root({"LLAVA_PACK_CACHE": "/big/disk"}).as_posix()
    '/big/disk'

    Raises:
        UsageError: it would be in the home of an account that has none.
    """
    own = environ.get("LLAVA_PACK_CACHE")
    base = environ.get("XDG_CACHE_HOME")
    if platform == "win32":
        base = base or environ.get("LOCALAPPDATA")
    place = Path(own) if own else Path(base or "~/.cache", "llava-pack")
    try:
        return place.expanduser()
    except RuntimeError as error:
        raise UsageError(
            "this account has no home folder, expected a place for what is fetched",
            subject="LLAVA_PACK_CACHE",
            hint="set LLAVA_PACK_CACHE to a folder with room for the model, and UV_CACHE_DIR",
        ) from error


class Cache:
    """Verified files by their SHA-256.

    Raises:
        UsageError: the folder cannot be made or written.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else default_root(os.environ)
        try:
            for name in ("sha256", "stamps", "refs", "parts"):
                (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the cache folder cannot be created: {error.strerror}",
                subject=str(self.root),
                hint="set LLAVA_PACK_CACHE to a folder that you can write",
            ) from error

    @property
    def parts(self) -> Path:
        """The folder of unfinished files."""
        return self.root / "parts"

    def path(self, sha256: str) -> Path | None:
        """Return the file with this digest, or None; one that was changed since is removed."""
        found = self._place(sha256)
        if not found.is_file():
            return None
        if self._stamp(sha256) != _stamp_of(found) and not self._still_good(found, sha256):
            self._forget(sha256)
            return None
        return found

    def adopt(self, finished: Path, sha256: str) -> Path:
        """Take over a flushed file whose bytes were hashed while they were written."""
        if held := self.path(sha256):
            finished.unlink()
            return held
        target = self._place(sha256)
        target.parent.mkdir(exist_ok=True)
        files.protect(finished)
        files.move(finished, target)
        _write(self.root / "stamps" / sha256, _stamp_of(target))
        files.sync(target.parent)
        return target

    def remember(self, key: str, sha256: str, validator: str | None = None) -> None:
        """Note which file was found under a git blob id or an address."""
        note = json.dumps({"sha256": sha256, "validator": validator})
        _write(self.root / "refs" / key, note)

    def recall(self, key: str) -> tuple[Path, str, str | None] | None:
        """Return the path, digest and validator noted under `key` while the file is still here."""
        try:
            note = json.loads((self.root / "refs" / key).read_text("utf-8"))
            sha256, validator = note["sha256"], note["validator"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        found = self.path(sha256) if _SHA256.fullmatch(str(sha256)) else None
        return (found, sha256, validator) if found else None

    def _place(self, sha256: str) -> Path:
        return self.root / "sha256" / sha256[:2] / sha256

    def _stamp(self, sha256: str) -> str:
        try:
            return (self.root / "stamps" / sha256).read_text("ascii")
        except FileNotFoundError:
            return ""

    def _still_good(self, found: Path, sha256: str) -> bool:
        before = _stamp_of(found)
        with found.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
                return False
        _write(self.root / "stamps" / sha256, before)
        return True

    def _forget(self, sha256: str) -> None:
        self._place(sha256).unlink(missing_ok=True)
        (self.root / "stamps" / sha256).unlink(missing_ok=True)


def _write(target: Path, text: str) -> None:
    files.write(target, text.encode(), durable=False)


def _stamp_of(path: Path) -> str:
    facts = path.stat()
    return f"{facts.st_size} {facts.st_mtime_ns}"
