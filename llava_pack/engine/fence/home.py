"""A private folder in the place of an account's home, for what libraries keep and leave."""

import os
import shutil
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from llava_pack.format.errors import ServeError, reason_of

_FOLDERS = {
    "HOME": "",
    "TMPDIR": "tmp",
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "HF_HOME": "cache/huggingface",
    "TORCHINDUCTOR_CACHE_DIR": "cache/inductor",
    "TRITON_CACHE_DIR": "cache/triton",
    "CUDA_CACHE_PATH": "cache/cuda",
    "MPLCONFIGDIR": "config/matplotlib",
}
_ELSEWHERE = (
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_TOKEN_PATH", "PYTHONSTARTUP",
)  # fmt: skip
"""Names of files that a fence does not let through, and that nothing here needs."""


def move_in(home: Path) -> None:
    """Make the folder anew, mode 0700, and have this process and its libraries live there.

    Raises:
        ServeError: the folder cannot be made.
    """
    settle(home, os.environ)
    tempfile.tempdir = str(home / "tmp")


def settle(home: Path, environment: MutableMapping[str, str]) -> None:
    """Make the folder anew, mode 0700, and have whoever gets the environment live there.

    Raises:
        ServeError: the folder cannot be made.
    """
    shutil.rmtree(home, ignore_errors=True)
    try:
        home.mkdir(mode=0o700)
        for name, folder in _FOLDERS.items():
            place = home / folder
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            environment[name] = str(place)
    except OSError as error:
        why = reason_of(error)
        raise ServeError(f"cannot be created: {why}", subject=str(home)) from error
    for name in _ELSEWHERE:
        environment.pop(name, None)
    # Whose account it is would else be looked up in /etc/passwd.
    environment.setdefault("USER", "llava-pack")
