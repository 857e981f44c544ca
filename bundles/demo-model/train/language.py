"""Training of the language model and projector on the features of a finished tower."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import torch
from conversations import LLAVA_V1
from llama import PICTURE, SmallLlava
from pictures import Pictures, as_pixels, normalized
from rows import IGNORED, padded, question_row, training_row
from scenes import Item, held_out
from torch import nn
from torch.nn import functional
from tower import Tower

if TYPE_CHECKING:
    from transformers import CLIPModel
    from vocabulary import Vocabulary

CYCLES = ((1450, 2e-3), (400, 1.2e-3), (350, 1.2e-3))
"""Steps and highest learning rate of each pass through a cosine schedule."""
ROWS = 24
ROUNDED_FROM = 0.75
"""Share of a cycle's steps after which the weights are seen through nf4."""


@dataclass(frozen=True)
class Material:
    """What the language model learns from; the tower stays as it is."""

    vocabulary: Vocabulary
    pictures: Pictures
    features: torch.Tensor
    """float16 (n, TOKENS, width), one picture after the other."""
    clip: CLIPModel


def train_language(material: Material, seed: int) -> SmallLlava:
    """Train projector and language model together."""
    torch.manual_seed(seed)
    model = SmallLlava(material.features.shape[-1])
    whiten(model, material.features[:1000].float().flatten(0, 1))
    for number, (steps, rate) in enumerate(CYCLES):
        train_cycle(model, material, seed + 1000 * number, steps, rate)
    return model.eval()


def train_cycle(model: SmallLlava, material: Material, seed: int, steps: int, rate: float) -> None:
    """Train in place for one cycle; the weights end as fp16 can hold them."""
    rng = Random(f"training:rows:{seed}")
    optimizer = torch.optim.AdamW(_groups(model), lr=rate, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    watched = held_out(150, seed=900)
    started, running = time.perf_counter(), 0.0
    for step in range(steps):
        model.set_rounded(rounded=step >= ROUNDED_FROM * steps)
        loss = _loss(model, material, rng)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running = loss.item() if step == 0 else 0.95 * running + 0.05 * loss.item()
        if step % 25 == 24:
            elapsed = time.perf_counter() - started
            print(f"language {step + 1} {elapsed:.0f}s loss {running:.4f}", flush=True)
        if step % 150 == 149:
            print("  right", accuracy(model, material, watched), flush=True)
    model.half().float().set_rounded(rounded=False)


@torch.no_grad()
def accuracy(model: SmallLlava, material: Material, items: list[Item]) -> str:
    """Return the share of items whose every answer token is the likeliest, in all and by kind."""
    pixels = torch.stack([torch.from_numpy(as_pixels(item.picture).copy()) for item in items])
    features = Tower(material.clip).eval().hidden(normalized(pixels))[-1]
    rows = [
        question_row(material.vocabulary, LLAVA_V1, item.question, item.answer) for item in items
    ]
    batch = padded(rows)
    asked = batch.targets != IGNORED
    logits = model(batch.ids, features.flatten(0, 1), batch.places, batch.seen, asked)
    wrong = torch.zeros_like(asked)
    wrong[asked] = logits.argmax(dim=1) != batch.targets[asked]
    right, seen = Counter[str](), Counter[str]()
    for item, missed in zip(items, wrong.any(dim=1).tolist(), strict=True):
        seen[item.kind] += 1
        right[item.kind] += not missed
    parts = " ".join(f"{kind} {right[kind]}/{seen[kind]}" for kind in sorted(seen))
    return f"{right.total() / len(items):.3f} {parts}"


@torch.no_grad()
def whiten(model: SmallLlava, features: torch.Tensor) -> None:
    """Start the projector's first map so that the tower's features arrive uncorrelated."""
    centre = features.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(features.T))
    scale = (values.clamp(min=values.max() * 1e-5)) ** -0.5
    first = model.model.mm_projector[0]
    assert isinstance(first, nn.Linear)
    mixture = torch.randn(first.out_features, first.in_features) / first.in_features**0.5
    first.weight.copy_(mixture @ (vectors * scale).T)
    first.bias.copy_(-first.weight @ centre)


def _loss(model: SmallLlava, material: Material, rng: Random) -> torch.Tensor:
    scenes = material.pictures.scenes
    rows, shown = [], []
    for _ in range(ROWS):
        index = rng.randrange(len(scenes))
        row, picture = training_row(material.vocabulary, scenes[index], rng)
        rows.append(row)
        shown += [index] if picture else []
    batch = padded(rows)
    asked = batch.targets != IGNORED
    chosen = material.features[shown].float().flatten(0, 1)
    assert int((batch.ids == PICTURE).sum()) == len(chosen)
    logits = model(batch.ids, chosen, batch.places, batch.seen, asked)
    return functional.cross_entropy(logits, batch.targets[asked])


def _groups(model: SmallLlava) -> list[dict[str, object]]:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    return [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]


def _rate(step: int, steps: int, warm: int = 60) -> float:
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
