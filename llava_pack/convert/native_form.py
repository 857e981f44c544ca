"""Which of transformers' own classes has a place for a checkpoint, and what it calls things. Pure.

Asked of the small files, so that a laptop has the answer before weights are fetched.

Source: transformers models/llava, models/llava_next, models/llava_onevision (configuration,
processors: what each makes of pictures); models/siglip (a tower may be without its head).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llava_pack.checkpoint.expected import Shapes, tower_shapes
from llava_pack.checkpoint.kind import NEXT, ONEVISION, PLAIN
from llava_pack.checkpoint.network import Network, network
from llava_pack.checkpoint.pictures import PictureRules, picture_rules
from llava_pack.checkpoint.quantized import quantized_ahead
from llava_pack.checkpoint.values import refusal

_MERGE = "spatial_unpad"
_HINT = "build it without --format hf and --quantize: llava-pack's own engine reads it"


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeForm:
    """A checkpoint as one of transformers' classes has it.

    Attributes:
        model_type: of config.json.
        architecture: the class.
        network: what is built.
        pictures: how they are prepared.
        tower: configuration of the tower that is written, layers behind the features left out
            where LLaVA's own code deletes them.
        feature_layer: of that tower whose features are taken.
    """

    model_type: str
    architecture: str
    network: Network
    pictures: PictureRules
    tower: Mapping[str, Any]
    feature_layer: int

    @property
    def stem(self) -> str:
        """What the names of its processors begin with."""
        return self.architecture.removesuffix("ForConditionalGeneration")

    @property
    def strategy(self) -> Literal["default", "full"]:
        """Which of the tower's features are taken: without the first, or all."""
        return "default" if self.network.tower.drops_class else "full"

    @property
    def class_tokens(self) -> int:
        """Features beside the patches, before any is dropped."""
        return int(self.network.tower.kind == "clip")

    @property
    def side_patches(self) -> int:
        """Patches along a picture, or along a tile."""
        return self.network.tower.patches

    @property
    def most_tiles(self) -> int:
        """Tiles that joined features are scaled down to; 0 where they are left as they are."""
        return self.pictures.tiling.most_tiles if self.pictures.tiling else 0

    @property
    def layouts(self) -> list[list[int]]:
        """Layouts of tiles as transformers reads them: (height, width), where LLaVA has (w, h)."""
        tiling = self.pictures.tiling
        return [[height, width] for width, height in tiling.layouts] if tiling else []

    def vision_shapes(self) -> Shapes:
        """Return the tensors of the tower that is written, by their names in its repository."""
        return tower_shapes({"vision_config": self.tower})


def native_form(
    config: Mapping[str, Any], tower_config: Mapping[str, Any], preprocessor: Mapping[str, Any]
) -> NativeForm:
    """Return the class that has a place for every part of a checkpoint.

    Args:
        config: config.json in the original keys.
        tower_config: its tower's.
        preprocessor: how the tower wants pictures.

    Raises:
        CheckpointError: there is none; the message names the part and the hint the way out.
    """
    if quantized_ahead(config) is not None:
        raise refusal(
            "the checkpoint was quantized ahead of time, so its linears have no other form",
            hint="build it without --format hf and --quantize, or use the unquantized checkpoint",
        )
    parts = network(config, tower_config)
    pictures = picture_rules(preprocessor, config, parts.tower)
    if parts.lone_linear or parts.linears != 2:
        kind = config.get("mm_projector_type") or "linear"
        raise refusal(
            f"mm_projector_type is {kind!r}, transformers' LLaVA supports only 'mlp2x_gelu'",
            hint=_HINT,
        )
    tiling = pictures.tiling
    if tiling is not None and tiling.merge != _MERGE:
        raise refusal(
            f"tiles are joined as {tiling.merge!r}, transformers' LLaVA joins them as {_MERGE!r} "
            "of 'patch' features",
            hint=_HINT,
        )
    model_type, architecture = PLAIN
    if tiling is not None:
        model_type, architecture = ONEVISION if tiling.most_tiles else NEXT
    return NativeForm(
        model_type=model_type,
        architecture=architecture,
        network=parts,
        pictures=pictures,
        tower=_tower(parts),
        feature_layer=-1
        if parts.tower.kind == "siglip"
        else int(config.get("mm_vision_select_layer", -2)),
    )


def _tower(parts: Network) -> dict[str, Any]:
    """Return the tower's configuration.

    LLaVA-NeXT deletes the last layer and the head of a SigLIP tower; a CLIP tower stays whole.
    """
    tower = parts.tower
    common = {"model_type": f"{tower.kind}_vision_model", "num_channels": 3}
    if tower.kind == "clip":
        return {**tower.values, **common}
    return {
        **tower.values,
        **common,
        "num_hidden_layers": tower.layers,
        "vision_use_head": False,
    }
