"""Which GPUs of a target a model is on, and what is worth knowing of them and of the others."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from llava_pack.format.manifest import ServingProfile
from llava_pack.format.target import FloorFinding, Gpu
from llava_pack.lock.fit import Fit, sharing_gpus
from llava_pack.lock.profile import TargetProfile

if TYPE_CHECKING:
    from llava_pack.format.precision import Precision


def model_gpus(
    target: TargetProfile, profile: ServingProfile, capability: str | None
) -> tuple[Gpu, ...]:
    """Return the GPUs that a model will be on, largest first."""
    precision = cast("Precision", profile.precision)
    return sharing_gpus(target, profile.gpus, precision, capability)


def gpu_findings(
    target: TargetProfile, gpus: Sequence[Gpu], chosen: Fit | None
) -> Iterator[FloorFinding]:
    """Yield what does not stop an installation: memory in use, and GPUs that the model is not on.

    Args:
        target: the facts.
        gpus: those that the model will be on.
        chosen: what is served, None where nothing fits or nothing is known.
    """
    free = [gpu.memory_free_bytes for gpu in gpus if not gpu.mig]
    known = [one for one in free if one is not None]
    if chosen is not None and known and len(known) == len(free) and sum(known) < chosen.needs_bytes:
        fix = "stop other programs on the GPU before serving, or choose fewer slots"
        need = f"{chosen.needs_bytes} bytes"
        yield FloorFinding("GPU memory free", "warn", f"{sum(known)} bytes", need, fix)
    if len(target.gpus or ()) > 1 and gpus:
        yield _others(target.gpus or (), gpus)


def _others(have: Sequence[Gpu], gpus: Sequence[Gpu]) -> FloorFinding:
    value = f"{len(have)} GPUs"
    if len(gpus) == len(have):
        return FloorFinding("GPUs", "ok", f"{value} share the model's layers", "all")
    numbers = [str(place) for gpu in gpus for place, one in enumerate(have) if one is gpu]
    fix = f"CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={','.join(numbers)}"
    if any(gpu.mig for gpu in gpus):
        fix = "CUDA_VISIBLE_DEVICES=MIG-…, as nvidia-smi -L names the slice,"
    fix = f"start the server with {fix} to use them; the others can serve other models"
    return FloorFinding("GPUs", "warn", value, f"the model needs {len(gpus)} of them", fix)
