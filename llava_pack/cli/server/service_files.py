"""What `service install` puts where a service reads and writes: folders, and keys of mode 0600."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from llava_pack.installation.unit import Unit

if sys.platform != "win32":  # where its help can be read, and nothing run
    import pwd


def give_folders(unit: Unit) -> None:
    """Let the account of a system's service write run states and logs, and read its keys.

    The folder of the keys is there from the start: a fence lets through only what is.
    """
    for name in ("run", "logs", "keys") if unit.system else ():
        folder = unit.prefix / name
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        facts = pwd.getpwnam(unit.account or "")
        # what the owner of the prefix put there could be a link, or a file of root's
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if name == "keys":
                _give_keys(descriptor, facts)
            os.fchown(descriptor, facts.pw_uid, facts.pw_gid)
        finally:
            os.close(descriptor)


def keep_join_key(unit: Unit) -> None:
    """Keep the head's join key where the service reads it, if the environment has it now.

    Raises:
        UsageError: it is none, or cannot be kept.
        OSError: a system's service could not be given it.
    """
    from llava_pack.serve.nodes.join_key import VARIABLE, followers_key, join_key_path, told_key
    from llava_pack.serve.run_state import directories

    if not unit.system:
        if VARIABLE in os.environ:
            followers_key(join_key_path(directories(unit.prefix)[0]), os.environ)
        return
    if not (key := told_key(os.environ)):
        return
    path = join_key_path(unit.prefix / "run")
    facts = pwd.getpwnam(unit.account or "")
    # the account could have put links there: root follows none, and writes to nothing that is there
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path.name, flags, 0o600, dir_fd=folder), "wb") as file:
            os.fchown(file.fileno(), facts.pw_uid, facts.pw_gid)
            file.write(key.encode() + b"\n")
    finally:
        os.close(folder)


def first_client_key(unit: Unit) -> Path | None:
    """Make a key for clients where there is none yet, and return where its text is."""
    from llava_pack.installation.client_key import first_key
    from llava_pack.serve.access.key_store import KeyStore, store_path
    from llava_pack.serve.run_state import directories

    run = unit.prefix / "run" if unit.system else directories(unit.prefix)[0]
    store = KeyStore(store_path(run))
    store.make_folder()
    return first_key(store, unit.arguments)


def _give_keys(folder: int, account: "pwd.struct_passwd") -> None:
    """Let an account read the keys that root added before; only root can have put them there."""
    from llava_pack.serve.access.key_store import NAME

    if os.fstat(folder).st_uid != 0:
        return
    with suppress(FileNotFoundError):
        os.chown(NAME, account.pw_uid, account.pw_gid, dir_fd=folder, follow_symlinks=False)
