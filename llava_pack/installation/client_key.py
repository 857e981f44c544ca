"""The first key of a service: a token ends with its start, and nobody sees what a unit prints.

Its text lies in a file of its owner, away from the folder of keys, which what serves may read.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from llava_pack.format import files
from llava_pack.serve.access.key import Quota, new_key
from llava_pack.serve.access.key_store import KeyStore

NAME = "client-key"
_HOLDER = "service"
_OWN_KEYS = ("--keys", "--api-key-file", "--no-token")


def first_key(store: KeyStore, arguments: Sequence[str]) -> Path | None:
    """Make a key where nobody has one, and return where its text is; None where somebody has.

    It is written down before it is valid, so that one that is valid is never lost.

    Args:
        store: of the service; its folder is there.
        arguments: of `serve`; with keys of their own, none is made.

    Raises:
        PackError: the store cannot be read or changed.
        OSError: the file cannot be written.
    """
    if any(word.partition("=")[0] in _OWN_KEYS for word in arguments) or store.read():
        return None
    key, text = new_key(
        _HOLDER, scopes=("ask", "page"), quota=Quota(), created=int(time.time()), expires=0
    )
    path = store.path.parent.with_name(NAME)
    with files.replacing(path, 0o600) as file:
        file.write(text.encode() + b"\n")
        if os.geteuid() == 0:
            facts = path.parent.stat()
            os.fchown(file.fileno(), facts.st_uid, facts.st_gid)
    store.add(key)
    return path
