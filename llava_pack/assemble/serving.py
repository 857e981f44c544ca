"""What a bundle will serve with: as the recipe says, or as much as fits the target's GPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava_pack.assemble.floors import Configs, Sized, model_configs
from llava_pack.assemble.packing import Packing
from llava_pack.assemble.sources import Identified
from llava_pack.checkpoint.converted import converted_tower
from llava_pack.checkpoint.footprint import Parameters, count_parameters
from llava_pack.checkpoint.kind import STORED, Kind
from llava_pack.checkpoint.native import stated_dtype, stored_values
from llava_pack.checkpoint.quantized import precision_ahead
from llava_pack.checkpoint.vision import tower_values
from llava_pack.format.manifest import ServingProfile
from llava_pack.format.precision import BY_QUALITY, FACTS, QUANTIZED, Precision
from llava_pack.lock.fit import Fit, Wish, choose_fit, fits, gpu_fits
from llava_pack.lock.profile import TargetProfile
from llava_pack.profiles.profile import Profile, Spread
from llava_pack.recipe import Recipe
from llava_pack.runtimes import RUNTIMES


@dataclass(frozen=True, kw_only=True)
class ServingPlan:
    """What will be served, and what else could be.

    Attributes:
        profile: goes into the manifest.
        wish: what the recipe asks for.
        fits: every precision on the target, best first; empty where its memory is not known.
        chosen: the one in `profile`, None where nothing fits or nothing is known.
    """

    profile: ServingProfile
    wish: Wish
    fits: tuple[Fit, ...] = ()
    chosen: Fit | None = None


def _whole(
    profile: Profile, packing: Packing, asked: Precision, *, cpu: bool, dtype: str
) -> Precision:
    """Return the precision that an engine of the field serves whole weights in.

    Of bfloat16 some models overflow in fp16, and vLLM refuses to serve them so.

    Source: sglang 0.5.23, srt/models/llava.py: of the original layout, its tower is in fp16.
    """
    if packing.tokenizer is not None:
        return "fp16"
    usual: Precision = "bf16" if dtype == FACTS["bf16"].dtype else "fp16"
    usual = "fp32" if cpu and "fp32" in profile.loads.precisions else usual
    return asked if asked in profile.loads.precisions and asked not in QUANTIZED else usual


def source_configs(sources: Mapping[str, Identified], recipe: Recipe) -> Configs:
    """Return the configurations of model and tower, before the weights are fetched.

    A projector without a config.json has its base's, and what the recipe says beside it. Of a model
    for other runtimes the sizes of its language model are all that is known.

    Raises:
        CheckpointError: an InternVL is one that transformers' own class cannot be.
    """
    kind, config = sources["model"].kind, sources["model"].config
    if kind in STORED:
        return stored_values(kind, config), {}
    found: dict[str, dict[str, Any]] = {name: {**one.config} for name, one in sources.items()}
    if sources["model"].kind in {Kind.PROJECTOR, Kind.LORA}:
        inside = {"vision_config": converted_tower(found.get("base", {}))}
        tower = found.get("vision_tower", inside)
        width = tower_values(tower)[1]["hidden_size"]
        usual = {"mm_projector_type": "linear", "mm_hidden_size": width}
        values = {**usual, **recipe.model.values}
        found["model"] = {**found.get("base", {}), **values, **found["model"]}
    return model_configs(found)


def source_sizes(sources: Mapping[str, Identified], configs: Configs) -> Sized:
    """Return the sizes of a model: its parameters counted, or as many bytes as its files have.

    Raises:
        CheckpointError: a value of a configuration is missing, or not usable.
    """
    model = sources["model"]
    if model.kind in STORED:
        return Parameters(stored_bytes=sum(model.weight_sizes.values())), configs[0]
    return count_parameters(*configs), configs[0]


def plan_serving(
    recipe: Recipe,
    packing: Packing,
    target: TargetProfile | None,
    sized: Sized,
    *,
    cpu: bool,
    capability: str | None = None,
    source: Identified | None = None,
) -> ServingPlan:
    """Return what to serve with.

    Args:
        recipe: its precision, context and slots hold where no target decides.
        packing: weights quantized ahead of time leave one precision.
        target: the facts.
        sized: the model and its tower.
        cpu: torch is for the CPU.
        capability: the least that torch has code for.
        source: the model: what it was quantized to ahead, and what its weights are.
    """
    written = packing.precision or (source and precision_ahead(source.config))
    dtype = stated_dtype(source.config) if source and source.kind in STORED else ""
    asked, engine = recipe.serving, RUNTIMES[recipe.runtime.engine]
    default = (cpu and engine.cpu_precision) or asked.precision
    spread: Spread = "pipeline"
    if engine.profile is not None:
        default = _whole(engine.profile, packing, asked.precision, cpu=cpu, dtype=dtype)
        spread = "pipeline" if written else engine.profile.spreads[0]
    fixed = written or (default if cpu or engine.profile is not None else None)
    wish = Wish(
        context_tokens=asked.context_tokens,
        slots=asked.slots,
        precisions=BY_QUALITY if fixed is None else (fixed,),
        device="cpu" if cpu else "cuda",
        spread=spread,
    )
    found: tuple[Fit, ...] = ()
    if target is not None and target.gpus and not cpu:
        found = gpu_fits(*sized, wish, target, capability)
    elif target is not None and target.memory_bytes is not None and cpu:
        has = (target.memory_bytes,)
        found = fits(*sized, wish, has_bytes=has)
    chosen = choose_fit(found, wish)
    profile = ServingProfile(
        engine=recipe.runtime.engine,
        precision=chosen.precision if chosen else (written or default),
        device="cpu" if cpu else "auto",
        context_tokens=chosen.context_tokens if chosen else asked.context_tokens,
        slots=chosen.slots if chosen else asked.slots,
        gpus=chosen.gpus if chosen else 1,
    )
    return ServingPlan(profile=profile, wish=wish, fits=found, chosen=chosen)
