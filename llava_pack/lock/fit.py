"""What of a model fits a GPU or a machine: precision, requests at a time, context. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_pack.checkpoint.footprint import Device, Parameters, Precision, footprint
from llava_pack.format.target import Gpu, TargetProfile, version

BY_QUALITY: tuple[Precision, ...] = ("fp16", "int8", "nf4")
LEAST_CONTEXT_TOKENS = 1024
"""A picture (576 tokens), a question and an answer. Source: facts of LLaVA 1.5's projector."""
_COMFORTABLE_SLOTS = 2
_CONTEXT_STEP = 64
# Source: bitsandbytes' installation guide: int8 needs Turing, the other kernels Pascal.
_CAPABILITIES: Mapping[Precision, tuple[int, ...]] = {"int8": (7, 5), "nf4": (6, 0)}
_SLICE = re.compile(r"\d+g\.(\d+)gb")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked for.

    Attributes:
        context_tokens: longest conversation.
        slots: requests at a time.
        precisions: those in question, best first.
        device: where it runs.
        capability: of the GPU; precisions that it cannot compute are left out.
    """

    context_tokens: int
    slots: int
    precisions: Sequence[Precision] = BY_QUALITY
    device: Device = "cuda"
    capability: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One precision on one machine.

    Attributes:
        slots: requests at a time with `context_tokens` each; 0 where it does not fit at all.
        needs_bytes: memory at that; of one request with the least context where it does not fit.
        has_bytes: memory that there is.
    """

    precision: Precision
    slots: int
    context_tokens: int
    needs_bytes: int
    has_bytes: int

    @property
    def fits(self) -> bool:
        """Whether it can be served."""
        return self.slots > 0


def serving_gpu(profile: TargetProfile) -> Gpu | None:
    """Return the GPU that a model will be on: the one with the most usable memory."""
    return max(
        profile.gpus or (),
        key=lambda gpu: (usable_bytes(gpu) or 0, version(gpu.compute_capability or "")),
        default=None,
    )


def usable_bytes(gpu: Gpu) -> int | None:
    """Return the memory that one process gets: the whole GPU, or its largest slice.

    >>> usable_bytes(Gpu(name="A100", mig=True, mig_slices=("1g.5gb", "3g.20gb"))) // 10**9
    20
    """
    if not gpu.mig:
        return gpu.memory_bytes
    slices = [int(match[1]) for name in gpu.mig_slices if (match := _SLICE.match(name))]
    return max(slices) * 10**9 if slices else None


def fits(
    parameters: Parameters, config: Mapping[str, Any], wish: Wish, *, has_bytes: int
) -> tuple[Fit, ...]:
    """Return what fits of each precision: the slots asked for, else fewer, else less context.

    Args:
        parameters: of the checkpoint and its tower.
        config: the checkpoint's config.json, original layout.
        wish: what is asked for.
        has_bytes: memory of the GPU or the machine.
    """
    context_tokens, slots = wish.context_tokens, wish.slots

    def needs(precision: Precision, slots: int, context_tokens: int) -> int:
        return footprint(
            parameters,
            config,
            precision=precision,
            device=wish.device,
            context_tokens=context_tokens,
            slots=slots,
        ).total_bytes

    def one(precision: Precision) -> Fit:
        count = slots
        while count > 1 and needs(precision, count, context_tokens) > has_bytes:
            count -= 1
        context = context_tokens
        least = min(LEAST_CONTEXT_TOKENS, context_tokens)
        while context > least and needs(precision, count, context) > has_bytes:
            context = max(least, context - _CONTEXT_STEP)
        total = needs(precision, count, context)
        fitting = count if total <= has_bytes else 0
        return Fit(
            precision=precision,
            slots=fitting,
            context_tokens=context,
            needs_bytes=total,
            has_bytes=has_bytes,
        )

    known = version(wish.capability or "")
    able = [p for p in wish.precisions if not known or known >= _CAPABILITIES.get(p, ())]
    return tuple(one(precision) for precision in able)


def choose_fit(found: Sequence[Fit], wish: Wish) -> Fit | None:
    """Return the best precision that serves two requests at once, else the one that serves most."""
    enough = min(wish.slots, _COMFORTABLE_SLOTS)
    for fit in found:
        if fit.slots >= enough and fit.context_tokens >= wish.context_tokens:
            return fit
    able = [fit for fit in found if fit.fits]
    return max(able, key=lambda fit: fit.slots * fit.context_tokens, default=None)
