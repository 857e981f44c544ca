"""Whether an engine of the field takes a model, and what it needs of the system to serve it."""

from collections.abc import Mapping

from llava_pack.assemble.floors import Configs
from llava_pack.assemble.packages import Packages
from llava_pack.assemble.packing import Packing
from llava_pack.assemble.runtimes import packed_for
from llava_pack.assemble.sources import Identified
from llava_pack.checkpoint.kind import WHOLE
from llava_pack.checkpoint.layout import Layout
from llava_pack.checkpoint.quantized import precision_ahead
from llava_pack.convert.native_form import native_form
from llava_pack.format.errors import CheckpointError
from llava_pack.recipe import Recipe

_NVCC = "nvidia-cuda-nvcc"
_HINT = "--runtime transformers: llava-pack's own engine serves it"


def check_loads(
    recipe: Recipe,
    packing: Packing,
    identified: Mapping[str, Identified],
    configs: Configs,
    layouts: Mapping[str, Layout],
) -> None:
    """Refuse a model of several parts that the recipe's engine does not load as it will be packed.

    Of one that is a folder alone, `PackedRuntime.whole_defects` says it.

    Raises:
        CheckpointError: its architecture is none of the engine's, or it was quantized ahead in a
            way that it does not read.
    """
    runtime = packed_for(recipe)
    if runtime.profile is None or identified["model"].kind in WHOLE:
        return
    subject = str(identified["model"].pinned)
    if packing.converted:
        stated = identified.get("base", identified["model"]).config.get("architectures")
        architecture = str(stated[0]) if isinstance(stated, list) and stated else "none"
    else:
        architecture = native_form(*configs, layouts["vision_tower"].preprocessor).architecture
    if architecture not in runtime.profile.loads.architectures:
        known = ", ".join(sorted(runtime.profile.loads.architectures))
        raise CheckpointError(
            f"{runtime.title} loads none of architecture {architecture}, expected one of: {known}",
            subject=subject,
            hint=_HINT,
        )
    ahead = precision_ahead(identified["model"].config)
    if ahead is not None and ahead not in runtime.quantized:
        have = ", ".join(sorted(runtime.quantized)) or "none"
        raise CheckpointError(
            f"quantized ahead to {ahead}, of which {runtime.title} reads {have}",
            subject=subject,
            hint=f"use the unquantized checkpoint, or {_HINT}",
        )


def needed_tools(recipe: Recipe, packages: Packages) -> tuple[str, ...]:
    """Return the programs of the system that the engine compiles with, but for those it brings.

    CUDA's compiler calls the system's C++ compiler.
    """
    profile = packed_for(recipe).profile
    if profile is None or "nvcc" not in profile.loads.needs or packages.torch.cuda is None:
        return ()
    carried = any(wheel.name.startswith(_NVCC) for wheel in packages.engine)
    return ("g++",) if carried else ("g++", "nvcc")
