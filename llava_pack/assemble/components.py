"""A projector's config.json, made whole: it came without one, or does not say what its base is."""

import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

from llava_pack.assemble.model_files import derived
from llava_pack.assemble.sources import Fetched
from llava_pack.checkpoint.config import parse_config, vision_tower_id
from llava_pack.checkpoint.network import tower_values
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
    data = json.dumps(config, indent=2).encode() + b"\n"
    path = projector.folder / _CONFIG
    path.unlink(missing_ok=True)  # it may be a link to the cache
    path.write_bytes(data)
    inputs = [source.origins[_CONFIG] for source in (base, tower)]
    origin = {**derived("recipe", inputs), "digest": f"sha256:{sha256(data).hexdigest()}"}
    return replace(projector, origins={**projector.origins, _CONFIG: origin})


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
