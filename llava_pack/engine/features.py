"""Features of a picture's tiles as the language model reads them, in LLaVA's own order.

Source: haotian-liu/LLaVA llava/model/llava_arch.py (prepare_inputs_labels_for_multimodal).
"""

import torch

from llava_pack.engine.tiles import Size, Tiling


def packed(
    features: torch.Tensor, size: Size, tiling: Tiling | None, newline: torch.Tensor | None
) -> torch.Tensor:
    """Return a picture's features as (tokens, hidden).

    Args:
        features: (tiles, patches, hidden); the whole picture first, then its tiles row by row.
        size: (width, height) of the picture.
        tiling: None where a picture is one tile.
        newline: (hidden,), put at the end of each row.
    """
    if tiling is None or tiling.merge == "flat":
        return features.flatten(0, 1)
    rows, columns = tiling.grid(size)
    hidden, side = features.shape[-1], tiling.patches
    joined = features[1:].view(rows, columns, side, side, hidden)
    joined = joined.permute(0, 2, 1, 3, 4)
    if tiling.merge == "spatial_unpad":
        joined = joined.reshape(rows * side, columns * side, hidden)
        above, before = tiling.margins(size)
        joined = joined[above : rows * side - above, before : columns * side - before]
        if newline is not None:
            ends = newline.to(joined.dtype).expand(joined.shape[0], 1, hidden)
            joined = torch.cat([joined, ends], dim=1)
    return torch.cat([features[0], joined.reshape(-1, hidden)])
