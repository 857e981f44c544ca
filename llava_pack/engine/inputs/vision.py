"""What the vision tower sees of pictures: many requests' together, and each picture once."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from llava_pack.checkpoint.tiling import Size, Tiling
from llava_pack.engine.inputs.feature_cache import FeatureCache
from llava_pack.engine.inputs.image_processor import PictureProcessor
from llava_pack.engine.port import Picture

_TILES_AT_ONCE = 10
"""Tiles of one picture that always go through the tower together: those of any LLaVA-1.6."""


@dataclass(frozen=True, slots=True)
class Look:
    """A picture that is to be seen: in tiles or as one square, and for whom it is kept."""

    picture: Picture
    salt: str = ""
    square: bool = False


class Vision:
    """Tower and projector of one network, with the features that they made.

    Args:
        network: whose tower is used.
        processor: makes tiles of pictures.
        at_once: tiles that go through the tower together.
        limit_bytes: of features that are kept.
    """

    def __init__(
        self, network: Any, processor: PictureProcessor, *, at_once: int, limit_bytes: int
    ) -> None:
        self._network = network
        self._device = next(network.model.vision_tower.parameters()).device
        self.processor = processor
        self.at_once = at_once
        self.cache: FeatureCache[torch.Tensor] = FeatureCache(limit_bytes)
        self._preprocessing = hashlib.sha256(repr(processor).encode()).hexdigest()

    def features(self, looks: Sequence[Look]) -> list[torch.Tensor]:
        """Return each picture's features as (tokens, hidden); the tower sees none twice."""
        keys = [self._key(look) for look in looks]
        found: dict[tuple[str, ...], torch.Tensor | None] = {}
        for key in keys:
            if key in found:  # somebody beside has the same picture
                self.cache.shared()
            else:
                found[key] = self.cache.get(key)
        missing = {key: look for key, look in zip(keys, looks, strict=True) if found[key] is None}
        for key, made in zip(missing, self._seen(list(missing.values())), strict=True):
            found[key] = made
            self.cache.put(key, made)
        return [seen for key in keys if (seen := found[key]) is not None]

    def _key(self, look: Look) -> tuple[str, ...]:
        way = "square" if look.square else ""
        return self._preprocessing, look.salt, look.picture.digest, way

    def _seen(self, looks: Sequence[Look]) -> Iterator[torch.Tensor]:
        """Yield the features of pictures, as many tiles at once as the device takes."""
        group: list[tuple[Look, torch.Tensor]] = []
        for look in looks:
            tiles = torch.from_numpy(self.processor.tiles(look.picture, square=look.square))
            if group and sum(len(one) for _, one in group) + len(tiles) > self.at_once:
                yield from self._together(group)
                group = []
            group.append((look, tiles))
        if group:
            yield from self._together(group)

    def _together(self, group: Sequence[tuple[Look, torch.Tensor]]) -> Iterator[torch.Tensor]:
        pixels = torch.cat([tiles for _, tiles in group])
        slices = torch.split(pixels, max(self.at_once, _TILES_AT_ONCE))
        stacked = torch.cat([self._through(tiles) for tiles in slices])
        parts = torch.split(stacked, [len(tiles) for _, tiles in group])
        newline = getattr(self._network.model, "image_newline", None)
        for (look, _), part in zip(group, parts, strict=True):
            # A copy of its own: a view would keep the whole batch in memory.
            yield self._packed(look, part, newline).clone()

    def _through(self, tiles: torch.Tensor) -> torch.Tensor:
        """Return what tower and projector make of tiles, as (tiles, patches, hidden)."""
        config = self._network.config
        features = self._network.model.get_image_features(
            pixel_values=tiles.to(self._device, self._network.dtype),
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
        ).pooler_output
        return features if isinstance(features, torch.Tensor) else torch.stack(list(features))

    def _packed(
        self, look: Look, features: torch.Tensor, newline: torch.Tensor | None
    ) -> torch.Tensor:
        tiling = self.processor.rules.tiling
        if tiling is None or tiling.merge == "flat":
            return features.flatten(0, 1)
        if look.square and newline is not None:
            return torch.cat([features[0], newline.to(features.dtype)[None]])
        return _joined(features, look.picture.size, tiling, newline)


def _joined(
    features: torch.Tensor, size: Size, tiling: Tiling, newline: torch.Tensor | None
) -> torch.Tensor:
    """Return a tiled picture's features as (tokens, hidden), as the language model reads them.

    Args:
        features: (tiles, patches, hidden); the whole picture first, then its tiles row by row.
        size: (width, height) of the picture.
        tiling: how it was cut.
        newline: (hidden,), put at the end of each row.

    Source: haotian-liu/LLaVA llava/model/llava_arch.py (prepare_inputs_labels_for_multimodal);
    LLaVA-VL/LLaVA-NeXT, the same file (scaling down to `anyres_max`).
    """
    rows, columns = tiling.grid(size)
    hidden, side = features.shape[-1], tiling.patches
    joined = features[1:].view(rows, columns, side, side, hidden).permute(0, 2, 1, 3, 4)
    if tiling.merge == "spatial_unpad":
        joined = joined.reshape(rows * side, columns * side, hidden)
        above, before = tiling.margins(size)
        joined = joined[above : rows * side - above, before : columns * side - before]
        joined = _scaled(joined, tiling.scaled(size))
        if newline is not None:
            ends = newline.to(joined.dtype).expand(joined.shape[0], 1, hidden)
            joined = torch.cat([joined, ends], dim=1)
    return torch.cat([features[0], joined.reshape(-1, hidden)])


def _scaled(features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return (rows, columns, hidden) features scaled to other (rows, columns)."""
    if features.shape[:2] == size:
        return features
    planes = features.permute(2, 0, 1)[None]
    return nn.functional.interpolate(planes, size, mode="bilinear")[0].permute(1, 2, 0)
