"""The vision tower: a small CLIP, trained to say what lies in every patch."""

from __future__ import annotations

import math
import time
from copy import deepcopy

import torch
from pictures import CELLS, GRID, PATCH, SIDE, TOKENS, Pictures, normalized
from scenes import BACKGROUNDS, COLOURS, SHAPES
from torch import nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel

WIDTH = 128
TRAINED_LAYERS = 4
STEPS = 3000
BATCH = 32


class Tower(nn.Module):
    """CLIP's vision model cut to the layers LLaVA reads, with heads used only while training."""

    def __init__(self, clip: CLIPModel) -> None:
        """Wrap the vision half of `clip`, which is trained in place."""
        super().__init__()
        self.vision = clip.vision_model
        self.centre = _head(1)
        self.colour = _head(len(COLOURS))
        self.shape = _head(len(SHAPES))
        self.offset = _head(2)
        self.mask = _head(CELLS * CELLS)
        self.count = _head(4)
        self.ground = _head(len(BACKGROUNDS))

    def hidden(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Return (batch, TOKENS, WIDTH) after every trained layer, class token dropped."""
        state = self.vision.pre_layrnorm(self.vision.embeddings(values))
        states = []
        for layer in self.vision.encoder.layers[:TRAINED_LAYERS]:
            state = layer(state, attention_mask=None)
            state = state[0] if isinstance(state, tuple) else state
            states.append(state[:, 1:])
        return states


def tower_config() -> CLIPConfig:
    """Return the configuration of the whole CLIP; its text half is only there to be complete."""
    text = {
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "projection_dim": 64,
        "bos_token_id": 254,
        "eos_token_id": 255,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": TRAINED_LAYERS + 1,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
        "projection_dim": 64,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)


def train_tower(pictures: Pictures, seed: int, steps: int = STEPS) -> CLIPModel:
    """Train the tower on its dense targets and return the CLIP that carries it.

    The last layer is a copy of the one before: LLaVA reads the layer at -2, so it is never used.
    """
    torch.manual_seed(seed)
    clip = CLIPModel(tower_config())
    clip.set_attn_implementation("sdpa")
    tower = Tower(clip)
    _start(tower)
    chosen = [p for n, p in tower.named_parameters() if f"layers.{TRAINED_LAYERS}." not in n]
    optimizer = torch.optim.AdamW(chosen, lr=1.5e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    started = time.perf_counter()
    for step in range(steps):
        batch = torch.randint(len(pictures.scenes), (BATCH,))
        losses = _losses(tower, pictures, batch)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        nn.utils.clip_grad_norm_(chosen, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            parts = " ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            print(f"tower {step + 1} {time.perf_counter() - started:.0f}s {parts}", flush=True)
    layers = clip.vision_model.encoder.layers
    layers[TRAINED_LAYERS].load_state_dict(deepcopy(layers[TRAINED_LAYERS - 1].state_dict()))
    return clip.half().float().eval()


@torch.no_grad()
def tower_features(clip: CLIPModel, pictures: Pictures) -> torch.Tensor:
    """Return float32 (n, TOKENS, WIDTH): what the projector is given for every picture."""
    tower = Tower(clip).eval()
    chunks = torch.split(pictures.pixels, 256)
    return torch.cat([tower.hidden(normalized(chunk))[-1] for chunk in chunks])


def _losses(tower: Tower, pictures: Pictures, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    states = tower.hidden(normalized(pictures.pixels[batch]))
    last, pooled = states[-1], states[-1].mean(dim=1)
    things, offsets = pictures.things[batch], pictures.offsets[batch]
    row, place = (things[..., 0] >= 0).nonzero(as_tuple=True)
    patch, colour, shape = things[row, place].unbind(dim=1)
    flags = torch.zeros(len(batch), TOKENS)
    flags[row, patch] = 1
    seen = last[row, patch]
    mask = pictures.mask[batch].float()
    binary = functional.binary_cross_entropy_with_logits
    entropy = functional.cross_entropy
    return {
        "centre": 4 * binary(tower.centre(last)[..., 0], flags),
        "colour": entropy(tower.colour(seen), colour),
        "shape": 2 * entropy(tower.shape(seen), shape),
        "offset": functional.mse_loss(tower.offset(seen), offsets[row, place]),
        "mask": 2 * binary(tower.mask(states[0]), mask),
        "count": 0.3 * entropy(tower.count(pooled), pictures.counts[batch]),
        "ground": 0.3 * entropy(tower.ground(pooled), pictures.grounds[batch]),
    }


def _head(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, outputs))


def _rate(step: int, steps: int, warm: int = 60) -> float:
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _start(tower: Tower) -> None:
    """Start the patch filters as cosines and the positions as two-dimensional waves."""
    with torch.no_grad():
        tower.vision.embeddings.patch_embedding.weight.copy_(_cosine_filters())
        tower.vision.embeddings.position_embedding.weight[1:].copy_(_waves())


def _cosine_filters() -> torch.Tensor:
    """Return (WIDTH, 3, PATCH, PATCH): the lowest cosine waves in three mixtures of channels."""
    place = (torch.arange(PATCH) + 0.5) / PATCH
    waves = torch.stack([torch.cos(math.pi * order * place) for order in range(PATCH)])
    orders = sorted(
        ((a, b) for a in range(PATCH) for b in range(PATCH)), key=lambda ab: (ab[0] + ab[1], ab)
    )
    mixtures = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    filters = [
        mixture[:, None, None] * waves[a][:, None] * waves[b][None, :]
        for a, b in orders
        for mixture in mixtures
    ]
    chosen = torch.stack(filters[:WIDTH])
    size: torch.Tensor = chosen.flatten(1).norm(dim=1)
    return 0.15 * chosen / size[:, None, None, None]


def _waves() -> torch.Tensor:
    """Return (TOKENS, WIDTH): sines and cosines of every patch's row and column."""
    quarter = WIDTH // 4
    frequency = math.pi * torch.logspace(-1.5, 0, quarter, base=4.0)
    place = torch.arange(GRID).float()
    angles = place[:, None] * frequency
    wave = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = wave[:, None].expand(GRID, GRID, -1)
    columns = wave[None, :].expand(GRID, GRID, -1)
    return 0.2 * torch.cat([rows, columns], dim=2).reshape(TOKENS, WIDTH)
