"""What of a model fits a GPU or a machine: precision, concurrent requests, context. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llava_pack.checkpoint.footprint import Device, Footprint, Parameters, footprint
from llava_pack.checkpoint.values import size
from llava_pack.format.precision import BY_QUALITY, FACTS, Precision
from llava_pack.format.target import Gpu, version
from llava_pack.lock.profile import TargetProfile
from llava_pack.profiles.profile import Spread

LEAST_CONTEXT_TOKENS = 1024
"""A picture (576 tokens), a question and an answer. Source: facts of LLaVA 1.5's projector."""
_COMFORTABLE_SLOTS = 2
_LAST: Precision = "nf4"
"""Rather a better precision over more GPUs than this one on fewer; else as few GPUs as serve."""
_CONTEXT_STEP = 64
_SLICE = re.compile(r"\d+g\.(\d+)gb")


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked for.

    Attributes:
        context_tokens: longest conversation.
        slots: requests at a time.
        precisions: those in question, best first.
        device: where it runs.
        gpus: how many share the model.
        spread: how they share it.
    """

    context_tokens: int
    slots: int
    precisions: Sequence[Precision] = BY_QUALITY
    device: Device = "cuda"
    gpus: int = 1
    spread: Spread = "pipeline"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One precision on one machine.

    Attributes:
        slots: requests at a time with `context_tokens` each; 0 where it does not fit at all.
        needs_bytes: memory at that; of one request with the least context where it does not fit.
        has_bytes: memory that there is.
        gpus: how many share the model; 1 on a CPU too.
    """

    precision: Precision
    slots: int
    context_tokens: int
    needs_bytes: int
    has_bytes: int
    gpus: int = 1

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


def sharing_gpus(
    profile: TargetProfile, count: int, precision: Precision, capability: str | None = None
) -> tuple[Gpu, ...]:
    """Return the GPUs that `count` of them sharing a model would be, largest first; may be fewer.

    A process that sees a slice sees nothing else, so GPUs that are cut share nothing.

    Args:
        profile: the facts.
        count: how many; 1 is whichever has most, a slice too.
        precision: what is computed.
        capability: the least that torch has code for.

    Source: NVIDIA's MIG user guide, "Device Enumeration".
    """
    if count == 1:
        best = serving_gpu(profile)
        return () if best is None else (best,)
    least = max(version(capability or ""), FACTS[precision].capability)
    whole = [
        gpu
        for gpu in profile.gpus or ()
        if not gpu.mig and gpu.memory_bytes and version(gpu.compute_capability or "") >= least
    ]
    return tuple(sorted(whole, key=lambda gpu: -(gpu.memory_bytes or 0))[:count])


def gpu_fits(
    parameters: Parameters,
    config: Mapping[str, Any],
    wish: Wish,
    profile: TargetProfile,
    capability: str | None = None,
) -> tuple[Fit, ...]:
    """Return what fits one GPU, then what fits over two and more, until something serves well."""
    found: list[Fit] = []
    for count in range(1, len(profile.gpus or ()) + 1):
        if wish.spread == "tensor" and size(config, "num_attention_heads") % count:
            continue
        for precision in wish.precisions:
            sharing = sharing_gpus(profile, count, precision, capability)
            has = [usable for gpu in sharing if (usable := usable_bytes(gpu)) is not None]
            if len(has) == count and all(_computes(gpu, precision) for gpu in sharing):
                one = replace(wish, precisions=(precision,))
                found += fits(parameters, config, one, has_bytes=has)
        best = choose_fit(found, wish)
        if best and _serves(best, wish) and (best.precision != _LAST or len(wish.precisions) == 1):
            break
    return tuple(found)


def _computes(gpu: Gpu, precision: Precision) -> bool:
    known = version(gpu.compute_capability or "")
    return not known or known >= FACTS[precision].capability


def fits(
    parameters: Parameters, config: Mapping[str, Any], wish: Wish, *, has_bytes: Sequence[int]
) -> tuple[Fit, ...]:
    """Return what fits of each precision: the slots asked for, else fewer, else less context.

    Args:
        parameters: of the checkpoint and its tower.
        config: the checkpoint's config.json, original layout.
        wish: what is asked for.
        has_bytes: memory of the machine, or of each GPU that shares the model.
    """
    context_tokens, slots = wish.context_tokens, wish.slots

    def needs(precision: Precision, slots: int, context_tokens: int) -> Footprint:
        return footprint(
            parameters,
            config,
            precision=precision,
            device=wish.device,
            context_tokens=context_tokens,
            slots=slots,
            gpus=len(has_bytes),
        )

    def short(precision: Precision, slots: int, context_tokens: int) -> bool:
        need = needs(precision, slots, context_tokens)
        if wish.spread == "tensor":  # each has as much of everything
            return need.total_bytes > len(has_bytes) * min(has_bytes)
        shares = need.shares(has_bytes)
        return any(share > has for share, has in zip(shares, has_bytes, strict=True))

    def one(precision: Precision) -> Fit:
        count = slots
        while count > 1 and short(precision, count, context_tokens):
            count -= 1
        context = context_tokens
        least = min(LEAST_CONTEXT_TOKENS, context_tokens)
        while context > least and short(precision, count, context):
            context = max(least, context - _CONTEXT_STEP)
        return Fit(
            precision=precision,
            slots=0 if short(precision, count, context) else count,
            context_tokens=context,
            needs_bytes=needs(precision, count, context).total_bytes,
            has_bytes=sum(has_bytes),
            gpus=len(has_bytes),
        )

    return tuple(one(precision) for precision in wish.precisions)


def choose_fit(found: Sequence[Fit], wish: Wish) -> Fit | None:
    """Return the best precision that serves two requests at once, else the one that serves most.

    As few GPUs as do it, but rather two than 4 bits.
    """
    serving = [fit for fit in found if _serves(fit, wish)]
    better = [fit for fit in serving if fit.precision != _LAST]
    if serving:
        return (better or serving)[0]
    able = [fit for fit in found if fit.fits]
    return max(able, key=lambda fit: fit.slots * fit.context_tokens, default=None)


def _serves(fit: Fit, wish: Wish) -> bool:
    enough = min(wish.slots, _COMFORTABLE_SLOTS)
    return fit.slots >= enough and fit.context_tokens >= wish.context_tokens
