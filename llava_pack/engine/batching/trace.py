"""What becomes of one question on its way through a model, stage by stage, as small values.

Two engines that serve the same model leave the same trace; where they differ first is where the
fault is: the words, the picture's preparation, the tower, the projector.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llava_pack.engine.measures import Trace, token_digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VALUES = 8
"""Numbers in the fingerprint of features."""
_LIBRARIES = ("torch", "transformers", "bitsandbytes")
_PRIMES = (2_654_435_761, 40_503)


def trace(
    network: Any, prompt: Sequence[int], words: Sequence[int], tiles: "NDArray[np.float32] | None"
) -> Trace:
    """Return the trace of a question, computed anew: nothing that is kept is used.

    Args:
        network: the model's modules.
        prompt: token ids of the whole prompt.
        words: token ids of the question's own text.
        tiles: (tiles, 3, height, width) of the question's picture, None without one.
    """
    if tiles is None:
        return Trace(prompt=token_digest(prompt), words=token_digest(words))
    heard: dict[str, torch.Tensor] = {}
    projector = network.model.multi_modal_projector
    with _listening(projector, heard), torch.inference_mode():
        network.model.get_image_features(
            pixel_values=torch.from_numpy(tiles).to(
                next(network.model.vision_tower.parameters()).device, network.dtype
            ),
            vision_feature_layer=network.config.vision_feature_layer,
            vision_feature_select_strategy=network.config.vision_feature_select_strategy,
        )
    return Trace(
        prompt=token_digest(prompt),
        words=token_digest(words),
        pixels=hashlib.sha256(tiles.tobytes()).hexdigest(),
        tower=fingerprint(heard["tower"]),
        projector=fingerprint(heard["projector"]),
    )


def fingerprint(features: torch.Tensor) -> tuple[float, ...]:
    """Return a few numbers in which every element of a tensor has its part.

    The first is the root mean square; each other one is a sum with signs of its own, divided by
    the root of the count: all are of the size of one element, and a single wild value moves them.

    Args:
        features: of any shape.
    """
    flat = features.detach().to("cpu", torch.float64).flatten()
    index = torch.arange(len(flat), dtype=torch.int64)
    scale = len(flat) ** 0.5
    values = [float(flat.square().mean().sqrt())]
    for number in range(1, VALUES):
        mixed = (index + 1) * _PRIMES[0] + number * _PRIMES[1]
        signs = 1.0 - 2.0 * ((mixed >> (8 + number)) & 1).to(torch.float64)
        values.append(float((flat * signs).sum() / scale))
    return tuple(values)


@contextmanager
def _listening(projector: Any, heard: dict[str, torch.Tensor]) -> Iterator[None]:
    """Keep what the projector is given, which is what the tower saw, and what it makes of it."""

    def keep(_module: Any, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        heard["tower"], heard["projector"] = given[0], made

    handle = projector.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def made_on(device: str) -> str:
    """Return the kind of device with the libraries: where it is equal, so are an answer's bits."""
    return ", ".join([_device(device), *(f"{name} {_version(name)}" for name in _LIBRARIES)])


def _device(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    if device != "cpu":
        return device
    flags = Path("/proc/cpuinfo")
    text = flags.read_text(errors="replace") if flags.is_file() else ""
    # bitsandbytes has kernels of their own for these processors, which round differently
    kernels = " bf16" if "avx512_bf16" in text else ""
    return f"cpu {torch.backends.cpu.get_cpu_capability()}{kernels}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
