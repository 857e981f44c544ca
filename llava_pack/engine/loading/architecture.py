"""The network of a checkpoint as transformers' Llava model, built without memory.

Models with tiles get the same network and one parameter more: the engine packs the features of
tiles itself, in LLaVA's own order. Layers of the tower behind the features are not built.
"""

from typing import Any

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from llava_pack.checkpoint.network import Network
from llava_pack.engine.batching.kv_cache import ATTENTION

_TEXT = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}


class Projector(nn.Module):
    """Linear layers with a GELU between each two.

    Source: haotian-liu/LLaVA llava/model/multimodal_projector/builder.py (mlpNx_gelu).
    """

    def __init__(self, linears: int, width: int, hidden: int) -> None:
        super().__init__()
        self._linears = linears
        for number in range(linears):
            setattr(self, f"linear_{number + 1}", nn.Linear(hidden if number else width, hidden))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (tokens, hidden) of (tokens, width)."""
        for number in range(self._linears):
            if number:
                features = nn.functional.gelu(features)
            features = self.get_submodule(f"linear_{number + 1}")(features)
        return features


def build(network: Network, vocabulary: int) -> LlavaForConditionalGeneration:
    """Return the model on the meta device: right shapes, no weights.

    Args:
        network: what the checkpoint's configuration says of it.
        vocabulary: rows of the embedding table in the weights.
    """
    tower = network.tower
    vision = {**tower.values, "num_hidden_layers": tower.layers}
    whole = LlavaConfig(
        text_config=_TEXT[network.language](vocab_size=vocabulary, **network.text),
        vision_config=CLIPVisionConfig(**vision)
        if tower.kind == "clip"
        else SiglipVisionConfig(**vision, vision_use_head=False),
        image_token_index=vocabulary,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default" if tower.drops_class else "full",
        projector_hidden_act="gelu",
    )
    hidden = whole.text_config.hidden_size
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(whole)
        model.model.multi_modal_projector = _projector(network, tower.width, hidden)
        if network.newline:
            model.model.image_newline = nn.Parameter(torch.empty(hidden))
    model.model.language_model.config._attn_implementation = ATTENTION  # noqa: SLF001
    return model.eval()


def _projector(network: Network, width: int, hidden: int) -> nn.Module:
    """Return the projector; a lone linear is called by no number."""
    if network.lone_linear:
        return nn.Linear(width, hidden)
    return Projector(network.linears, width, hidden)


def computed_buffers(model: LlavaForConditionalGeneration, device: Any) -> None:
    """Make the buffers that no checkpoint holds: rotary frequencies and position numbers."""
    language, tower = model.model.language_model, model.model.vision_tower
    with torch.device(device):
        language.rotary_emb = type(language.rotary_emb)(config=language.config)
        count = tower.embeddings.num_positions
        tower.embeddings.position_ids = torch.arange(count).expand((1, -1))
