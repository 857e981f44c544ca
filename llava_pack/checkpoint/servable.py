"""Who can serve a checkpoint: llava-pack's engine, LLaVA's own code, another, or nobody. Pure.

Asked of the small files alone, so that a laptop has the answer before weights are fetched. What the
engine builds comes from the same functions: it has no reason of its own.
"""

from collections.abc import Mapping
from typing import Any

from llava_pack.checkpoint.defects import Defect, defect_of
from llava_pack.checkpoint.kind import UPSTREAM_LANGUAGES, Kind, backbone
from llava_pack.checkpoint.network import network, projector_linears
from llava_pack.checkpoint.pictures import picture_rules
from llava_pack.checkpoint.values import choice, refusal
from llava_pack.checkpoint.vision import tower_rules
from llava_pack.format.errors import CheckpointError

Config = Mapping[str, Any]

_OWN_ENGINE = "leave out --runtime upstream: llava-pack's own engine serves it"


def engine_defects(config: Config, tower_config: Config, preprocessor: Config) -> list[Defect]:
    """Return why llava-pack's engine cannot be made of a checkpoint; the first reason, or none.

    Args:
        config: the checkpoint's config.json, in the original keys.
        tower_config: its tower's.
        preprocessor: how the tower wants pictures.
    """
    try:
        picture_rules(preprocessor, config, network(config, tower_config).tower)
    except CheckpointError as error:
        return [defect_of(error)]
    return []


def upstream_defects(config: Config, tower_config: Config) -> list[Defect]:
    """Return why LLaVA's own code cannot load a checkpoint in the original layout.

    Source: haotian-liu/LLaVA llava/model/builder.py, multimodal_encoder/builder.py.
    """
    try:
        choice("the language model", backbone(config), UPSTREAM_LANGUAGES, hint=_OWN_ENGINE)
        projector_linears(config)
        if tower_rules(config, tower_config).kind != "clip":
            raise refusal("LLaVA's own code has no SigLIP tower", hint=_OWN_ENGINE)
    except CheckpointError as error:
        return [defect_of(error)]
    return []


def served_by(config: Config, tower_config: Config, preprocessor: Config, kind: Kind) -> list[str]:
    """Return the runtimes that can serve a checkpoint, as `--runtime` names them.

    Args:
        config: the checkpoint's config.json, in the original keys.
        tower_config: its tower's.
        preprocessor: how the tower wants pictures.
        kind: of the checkpoint; LLaVA's own code reads no converted one.
    """
    reasons = {"transformers": engine_defects(config, tower_config, preprocessor)}
    if kind is not Kind.CONVERTED:
        reasons["upstream"] = upstream_defects(config, tower_config)
    return [runtime for runtime, defects in reasons.items() if not defects]
