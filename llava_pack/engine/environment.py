"""The process's environment for torch: threads that do not spin, memory that is kept, no chatter.

Each setting is a default: what a person set stays.
"""

import ctypes
import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_SETTINGS = {
    # Nothing is looked up, counted or fetched.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "BITSANDBYTES_NOWELCOME": "1",
    # Idle OpenMP threads that spin for long make a step many times slower as soon as another
    # process wants the core; spinning for a moment costs nothing.
    "GOMP_SPINCOUNT": "1000",
}
# Source: malloc.h of glibc
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 1 << 30


def prepare() -> None:
    """Set the environment; call it before torch is imported, in a process that runs an engine."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    # bitsandbytes and transformers would ask a hub for kernels where this package is installed.
    sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
    warnings.filterwarnings("ignore", module=r"(torch|transformers|bitsandbytes|huggingface_hub)\b")
    for name in ("transformers", "bitsandbytes", "huggingface_hub", "torch", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let malloc reuse large blocks: giving each back makes every step fault its pages anew."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, ctypes.c_int(_KEPT_BYTES))
        libc.mallopt(_M_TRIM_THRESHOLD, ctypes.c_int(_KEPT_BYTES))


@contextmanager
def importing() -> Iterator[None]:
    """Leave garbage alone while libraries are imported, and their objects alone for good.

    Hundreds of thousands of objects come at once, and all of them stay. The collector looks at them
    again and again meanwhile, and later, for 0.2 s, while answers wait.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def trim_memory() -> None:
    """Give freed memory, which glibc keeps, back to the system; elsewhere it does nothing.

    Source: malloc_trim(3).
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
