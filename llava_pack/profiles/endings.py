"""Why an engine ended before it served, from what it wrote last: one table for all of them.

Engines end with code 1 whatever happened. What is not in the table is told with the last lines
themselves. Source: vllm 0.33.0 (v1/core/kv_cache_planning.py, v1/worker/utils.py, config),
sglang 0.5.23 (srt/model_executor, srt/models/registry.py), lmdeploy 0.18.0
(turbomind/turbomind.py), torch 2.14 (c10/cuda), triton 3.9 (runtime/build.py), transformers 5
(auto/configuration_auto.py).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llava_pack.format.errors import (
    CheckpointError,
    PackError,
    PreflightError,
    ServeError,
    SpaceError,
    UsageError,
)

_SHOWN_CHARS = 300


class PortTakenError(ServeError):
    """Somebody took the port meanwhile; another one may be free."""


@dataclass(frozen=True, kw_only=True)
class KnownEnding:
    """One cause, as engines word it.

    Attributes:
        words: what a line of the log has, as a regular expression.
        error: for people, with that line.
    """

    words: str
    error: Callable[[str], PackError]


ENDINGS = (
    KnownEnding(
        words=r"address already in use|EADDRINUSE|Port is already in use|\[Errno 98\]",
        error=lambda line: PortTakenError(
            f"another program took its port while it started: {line}", hint="try again"
        ),
    ),
    KnownEnding(
        words=r"Failed to find C compiler|no C compiler found",
        error=lambda line: PreflightError(
            f"this machine has no C compiler, which it needs while it serves: {line}",
            hint="install gcc, or build the bundle again: it then brings one",
        ),
    ),
    KnownEnding(
        words=r"NVIDIA driver on your system is too old|CUDA driver version is insufficient",
        error=lambda line: PreflightError(
            f"the GPU's driver is too old for it: {line}",
            hint="install a newer driver, or build the bundle for this one: llava-pack build "
            "--target FILE",
        ),
    ),
    KnownEnding(
        words=r"Found no NVIDIA driver|No CUDA GPUs are available|Failed to infer device type",
        error=lambda line: PreflightError(f"it finds no GPU: {line}", hint="llava-pack health"),
    ),
    KnownEnding(
        words=r"must be divisible by tensor parallel|cannot be evenly split across|"
        r"larger than the number of available GPUs|invalid device ordinal",
        error=lambda line: UsageError(
            f"the model cannot be spread over so many GPUs of this machine: {line}",
            hint="choose another number with --gpus",
        ),
    ),
    KnownEnding(
        words=r"Model architectures .* are not supported|does not recognize this architecture|"
        r"turbomind does not support|'Conv2d' object has no attribute 'num_embeddings'",
        error=lambda line: CheckpointError(
            f"it does not know the architecture of this model: {line}",
            hint="build the bundle with llava-pack's engine, or with another version of this one",
        ),
    ),
    KnownEnding(
        words=r"CUDA out of memory|OutOfMemoryError|cudaErrorMemoryAllocation|"
        r"No available memory for the cache blocks|larger than the available KV cache memory|"
        r"Free memory on device|Not enough memory\. Please try|can't allocate memory",
        error=lambda line: SpaceError(
            f"its memory is not enough: {line}",
            hint="stop what else uses the GPU, or take a smaller --context, fewer --slots or more "
            "--gpus",
        ),
    ),
)
"""The first one whose words are found is the cause."""


def cause_in(lines: Sequence[str], subject: str = "") -> PackError | None:
    """Return the error that the last lines of an engine's log tell of; None where none is known.

    Args:
        lines: oldest first.
        subject: name of its model.

    >>> str(cause_in(["INFO loading", "torch.OutOfMemoryError: CUDA out of memory."], "llava"))
    'llava: its memory is not enough: torch.OutOfMemoryError: CUDA out of memory.'
    """
    for ending in ENDINGS:
        for line in lines:
            if re.search(ending.words, line):
                error = ending.error(line.strip()[:_SHOWN_CHARS])
                error.subject = subject
                return error
    return None
