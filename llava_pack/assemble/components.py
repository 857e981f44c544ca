"""A config.json that is not packed as it came: a projector's, or one whose tower was chosen.

A projector comes without one, or does not say what its base is.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

from llava_pack.assemble.model_files import derived
from llava_pack.assemble.sources import Fetched
from llava_pack.checkpoint.config import parse_config, vision_tower_id
from llava_pack.checkpoint.keymap import INSIDE
from llava_pack.checkpoint.kind import TowerChoice
from llava_pack.checkpoint.layout import Layout
from llava_pack.checkpoint.pair import with_tower
from llava_pack.checkpoint.vision import tower_values
from llava_pack.format.errors import RecipeError
from llava_pack.recipe import Recipe

_CONFIG = "config.json"
_TYPES = {
    "mistral": ("llava_mistral", "LlavaMistralForCausalLM"),
    "qwen2": ("llava_qwen", "LlavaQwenForCausalLM"),
}
_LLAMA = ("llava", "LlavaLlamaForCausalLM")


def completed(projector: Fetched, base: Fetched, tower: Fetched, recipe: Recipe) -> Fetched:
    """Return a projector whose config.json is that of the LLaVA that it makes of its base.

    Args:
        projector: what was fetched; its folder gets the file.
        base: the language model.
        tower: the CLIP repository.
        recipe: `model.values` are added where the projector came without a config.json.

    Raises:
        RecipeError: there is no config.json, and the recipe has no `model.values`.
        CheckpointError: the tower is of another kind.
    """
    config = _read(projector) if _CONFIG in projector.origins else {}
    if not config:
        if not recipe.model.values:
            raise RecipeError(
                "the source has no config.json, so the recipe must give its values",
                subject=f"{recipe.name}: model.values",
                hint="docs/reference/recipe.md, 'Adapters, projectors and components'",
            )
        config = _composed(_read(base), _read(tower), recipe)
    before = json.dumps(config, sort_keys=True)
    config.setdefault("_name_or_path", base.pinned.public)
    if vision_tower_id(config) is None:
        config["mm_vision_tower"] = tower.pinned.public
    if _CONFIG in projector.origins and json.dumps(config, sort_keys=True) == before:
        return projector
    return _with_config(projector, config, "recipe", (base, tower))


def chosen_tower(
    layout: Layout, model: Fetched, choice: TowerChoice | None
) -> tuple[Layout, Fetched]:
    """Return a checkpoint with the vision tower that a person chose: its own, or the stock one.

    Raises:
        UsageError: there is none inside.
    """
    if choice is None:
        return layout, model
    layout = with_tower(layout, choice)
    chosen = _with_config(model, layout.config, f"--tower {choice}", (model,))
    return layout, replace(chosen, left_out=(INSIDE,)) if choice == "stock" else chosen


def _with_config(
    source: Fetched, config: Mapping[str, Any], tool: str, made_of: Iterable[Fetched]
) -> Fetched:
    """Write another config.json into the folder of a source."""
    data = json.dumps(config, indent=2).encode() + b"\n"
    path = source.folder / _CONFIG
    path.unlink(missing_ok=True)  # it may be a link to the cache
    path.write_bytes(data)
    inputs = [one.origins[_CONFIG] for one in made_of]
    origin = {**derived(tool, inputs), "digest": f"sha256:{sha256(data).hexdigest()}"}
    return replace(source, origins={**source.origins, _CONFIG: origin})


def _composed(base: dict[str, Any], tower: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    model_type, name = _TYPES.get(str(base.get("model_type")), _LLAMA)
    return {
        **base,
        "architectures": [name],
        "model_type": model_type,
        "mm_hidden_size": tower_values(tower)[1]["hidden_size"],
        **recipe.model.values,
    }


def _read(source: Fetched) -> dict[str, Any]:
    return parse_config((source.folder / _CONFIG).read_bytes())
