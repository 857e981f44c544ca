"""Where keys are kept: one file of mode 0600 in a folder of mode 0700, replaced as a whole.

Whoever changes it holds a lock, writes beside and renames, so that a server sees the keys before
or the keys after. A running server looks once a second whether the file is another one. Where it
cannot be read any more, no key of it is known: a key that was revoked must not live on because of
that.
"""

import contextlib
import fcntl
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from llava_pack.format import files
from llava_pack.format.errors import PackError, SpaceError, UsageError, reason_of
from llava_pack.serve.access.key import Key, from_document, to_document

_log = logging.getLogger(__name__)
NAME = "keys.json"
_MAX_BYTES = 16 * 1024 * 1024
_LOOK_EVERY_S = 1.0


def store_path(run_directory: Path) -> Path:
    """Return where the keys of an installation are, beside the folder of run states.

    >>> store_path(Path("/opt/llava-pack/run")).as_posix()
    '/opt/llava-pack/keys/keys.json'
    """
    return run_directory.parent / "keys" / NAME


class KeyStore:
    """The keys in one file.

    Args:
        path: of the file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[Key, ...]:
        """Return the keys, in the order in which they were added; none where there is no file.

        Raises:
            UsageError: the file cannot be read, is open to others or somebody else's, or is
                damaged.
        """
        try:
            data = _read(self.path)
            return from_document(json.loads(data)) if data is not None else ()
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"the keys cannot be read: {error}",
                subject=str(self.path),
                hint="restore a copy, or remove the file and add the keys again",
            ) from error
        except OSError as error:
            raise _unusable(self.path, error) from error

    def add(self, key: Key) -> None:
        """Keep a key.

        Raises:
            UsageError: there is one of this name, or the file cannot be changed.
            SpaceError: the disk is full; nothing was changed.
        """
        with self._locked():
            keys = self.read()
            if any(known.name == key.name for known in keys):
                raise UsageError(
                    "a key with this name already exists",
                    subject=key.name,
                    hint=f"llava-pack keys revoke {key.name}, or choose another name",
                )
            self._write((*keys, key))

    def revoke(self, name: str) -> Key:
        """Forget a key, and return what was known of it.

        Raises:
            UsageError: there is none of this name, or the file cannot be changed.
            SpaceError: the disk is full; nothing was changed.
        """
        with self._locked():
            keys = self.read()
            gone = next((key for key in keys if key.name == name), None)
            if gone is None:
                raise UsageError("no key has this name", subject=name, hint="llava-pack keys list")
            self._write(tuple(key for key in keys if key is not gone))
            return gone

    def make_folder(self) -> None:
        """Make the folder, private; where root does, it belongs to whom the run states belong to.

        Raises:
            OSError: it cannot be made.
        """
        folder = self.path.parent
        if folder.is_dir():
            return
        folder.mkdir(mode=0o700, parents=True)
        run = folder.parent / "run"
        if os.geteuid() == 0 and self.path.name == NAME and run.is_dir():
            facts = run.lstat()
            os.chown(folder, facts.st_uid, facts.st_gid, follow_symlinks=False)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the store's folder for oneself; the lock goes with the process."""
        try:
            self.make_folder()
            descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _unusable(self.path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise _unusable(self.path, error) from error
        finally:
            os.close(descriptor)

    def _write(self, keys: tuple[Key, ...]) -> None:
        with files.replacing(self.path, 0o600) as file:
            file.write(json.dumps(to_document(keys), indent=1).encode() + b"\n")
            if os.geteuid() == 0:  # the account that serves reads it
                facts = self.path.parent.stat()
                os.fchown(file.fileno(), facts.st_uid, facts.st_gid)


class LiveKeys:
    """The keys of a store as they are by now, by id.

    Args:
        path: of the store; None knows no key.
        clock: monotonic seconds.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = KeyStore(path) if path is not None else None
        self._clock = clock
        self._looked_s = float("-inf")
        self._mark: object = ()
        self._known: Mapping[str, Key] = {}

    def now(self) -> Mapping[str, Key]:
        """Return the keys; what was added or revoked more than a second ago is seen."""
        if self._store is not None and self._clock() - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s = self._clock()
            mark = _mark(self._store.path)
            if mark != self._mark:
                self._known = self._read(self._store)
                self._mark = mark
        return self._known

    def _read(self, store: KeyStore) -> Mapping[str, Key]:
        try:
            keys = store.read()
        except PackError as error:
            _log.error("%s; none of its keys is accepted until it can be read", error)
            return {}
        _log.info("%d keys are loaded", len(keys))
        return {key.id: key for key in keys}


def _mark(path: Path) -> object:
    """Return what differs where a file is another one, or was changed."""
    with contextlib.suppress(OSError):
        facts = path.stat(follow_symlinks=False)
        return facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size
    return None


def _read(path: Path) -> bytes | None:
    """Return a file's bytes, None where there is none.

    Raises:
        ValueError: it is not a plain file of this account's, or root's, that is shut to others.
        OSError: it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        mode = stat.S_IMODE(facts.st_mode)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("expected a plain file")
        if os.geteuid() != 0 and facts.st_uid not in {os.geteuid(), 0}:
            raise ValueError("expected a file of this account")
        if mode & 0o077:
            raise ValueError(f"it is open to other accounts: mode {mode:04o}, expected 0600")
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"expected at most {_MAX_BYTES} bytes")
    return data


def _unusable(path: Path, error: OSError) -> PackError:
    if error.errno in files.FULL:
        return SpaceError(f"the keys were not changed: {reason_of(error)}", subject=str(path))
    return UsageError(
        f"the keys cannot be used: {reason_of(error)}",
        subject=str(path),
        hint="run it as the server's account or as root, or pass another --file",
    )
