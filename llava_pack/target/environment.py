"""What of a person's environment reaches the programs of a prefix: one rule, for all of them.

The installer, its smoke test and the server must find the same libraries, certificates and GPUs;
else the smoke test proves nothing about the server. `install.sh` and `bin/llava-pack` start again
through `env -i`: with these names, and with what `--keep-env` names. The names of what was there
are handed on, so that what was left out can be told. What an installation kept, `bin/llava-pack`
keeps by itself.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise

from llava_pack.format.errors import UsageError

ENGINE = (
    *("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
    *("CUDA_MPS_PIPE_DIRECTORY", "OMP_NUM_THREADS", "LLAVA_PACK_GRAPHS"),
)
"""How an engine runs: a smoke test gets these too."""
INSTALLER = (
    *("HOME", "TERM", "NO_COLOR", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"),
    *("SSH_CONNECTION", *ENGINE),
)
"""What install.sh hands on; it has a copy of this list."""
PROGRAM = (
    *(*INSTALLER, "USER", "LOGNAME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"),
    *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "TZ", "COLUMNS", "LINES"),
    *("LLAVA_PACK_AS_ROOT", "LLAVA_PACK_CACHE", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
    *("DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE"),
    *("DISPLAY", "XAUTHORITY", "WAYLAND_DISPLAY", "COMP_WORDS", "COMP_CWORD"),
    *("_LLAVA_PACK_COMPLETE", "_TYPER_COMPLETE_ARGS", "LLAVA_PACK_JOIN_KEY"),
)
"""What `bin/llava-pack` hands on: also where it writes, how it talks, and to which systemd."""
NAMES = "CALLER_NAMES"
"""Holds the names of all that was there."""
CHOSEN = "CALLER_KEPT"
"""Holds the names that `bin/llava-pack` keeps, by itself or by its arguments."""
KEEP = "--keep-env"
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OWN = re.compile(r"PATH|LC_ALL|CALLER_.*|PYTHON.*")
"""What install.sh and the tests of an installation set themselves, or run without."""
_MATTERS = re.compile(
    r"LD_.*|GLIBC_TUNABLES|GCONV_PATH|MALLOC_.*|.*_PROXY|SSL.*|OPENSSL_.*|.*_CA_BUNDLE|CUDA_.*|"
    r"NVIDIA_.*|NCCL_.*|(PY)?TORCH.*|TRITON_.*|BNB_.*|BITSANDBYTES_.*|HF_.*|HUGGINGFACE_.*|"
    r"TRANSFORMERS_.*|TOKENIZERS_.*|OMP_.*|GOMP_.*|KMP_.*|MKL_.*|OPENBLAS_.*|GRADIO_.*|UVICORN_.*|"
    r"WEB_CONCURRENCY|FORWARDED_ALLOW_IPS",
    re.IGNORECASE,
)
"""What libraries that serve read. Not PYTHON*: every Python here is isolated from those."""


def troublemakers(names: Iterable[str]) -> tuple[str, ...]:
    """Return those that change how a server runs, and that no test of an installation had.

    >>> troublemakers(["no_proxy", "HOME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "EDITOR"])
    ('LD_LIBRARY_PATH', 'no_proxy')
    """
    return tuple(sorted(n for n in {*names} - {*ENGINE} if _MATTERS.fullmatch(n)))


def left_out(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the troublemakers that did not reach this process.

    >>> left_out({"CALLER_NAMES": "ALL_PROXY LD_PRELOAD", "LD_PRELOAD": "kept.so"})
    ('ALL_PROXY',)
    """
    return troublemakers({*environ.get(NAMES, "").split()} - environ.keys())


def kept(arguments: Iterable[str]) -> tuple[str, ...]:
    """Return the names that a command line keeps.

    >>> kept(["serve", "--keep-env", "A", "--port", "1", "--keep-env=B"])
    ('A', 'B')
    """
    words = [part for word in arguments for part in _parts(word)]
    return tuple(after for word, after in pairwise(words) if word == KEEP)


def chosen(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names that `bin/llava-pack` keeps, set or not.

    >>> chosen({"CALLER_KEPT": " LD_LIBRARY_PATH A"})
    ('LD_LIBRARY_PATH', 'A')
    """
    return tuple(environ.get(CHOSEN, "").split())


def those_set(names: Iterable[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return those of the names to be kept that are set, which an installation is tested with.

    Raises:
        UsageError: one is no name, or is not the caller's to set.

    >>> those_set(["B", "A", "C", "A"], {"A": "1", "B": ""})
    ('A', 'B')
    """
    for name in names:
        if not IDENTIFIER.fullmatch(name) or _OWN.fullmatch(name):
            message = f"expected a variable that an installation leaves to you, got {name}"
            raise UsageError(message, subject=KEEP)
    return tuple(sorted({*names} & environ.keys()))


def _parts(word: str) -> list[str]:
    return word.split("=", 1) if word.startswith(f"{KEEP}=") else [word]
