"""Training of the language model and projector on the features of a finished tower."""

from __future__ import annotations

import math
import time
from collections import Counter
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

STEPS = 1450
ROWS = 24
RATE = 2e-3
ROUNDED_FROM = 0.75
"""Share of the steps after which the weights are seen through nf4."""


def train_language(
    vocabulary: Vocabulary,
    pictures: Pictures,
    features: torch.Tensor,
    clip: CLIPModel,
    seed: int,
    steps: int = STEPS,
) -> SmallLlava:
    """Train projector and language model together; the tower stays as it is."""
    torch.manual_seed(seed)
    rng = Random(f"training:rows:{seed}")
    model = SmallLlava(features.shape[-1])
    whiten(model, features[:1000].float().flatten(0, 1))
    optimizer = torch.optim.AdamW(_groups(model), lr=RATE, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    watched = held_out(150, seed=900)
    started, running = time.perf_counter(), 0.0
    for step in range(steps):
        model.set_rounded(rounded=step >= ROUNDED_FROM * steps)
        loss = _loss(model, vocabulary, pictures, features, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running = loss.item() if step == 0 else 0.95 * running + 0.05 * loss.item()
        if step % 25 == 24:
            elapsed = time.perf_counter() - started
            print(f"language {step + 1} {elapsed:.0f}s loss {running:.4f}", flush=True)
        if step % 150 == 149:
            print("  right", accuracy(model, vocabulary, clip, watched), flush=True)
    return model.half().float().eval()


@torch.no_grad()
def accuracy(model: SmallLlava, vocabulary: Vocabulary, clip: CLIPModel, items: list[Item]) -> str:
    """Return the share of items whose every answer token is the likeliest, in all and by kind."""
    pixels = torch.stack([torch.from_numpy(as_pixels(item.picture).copy()) for item in items])
    features = Tower(clip).eval().hidden(normalized(pixels))[-1]
    rows = [question_row(vocabulary, LLAVA_V1, item.question, item.answer) for item in items]
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


def _loss(
    model: SmallLlava,
    vocabulary: Vocabulary,
    pictures: Pictures,
    features: torch.Tensor,
    rng: Random,
) -> torch.Tensor:
    rows, shown = [], []
    for _ in range(ROWS):
        index = rng.randrange(len(pictures.scenes))
        row, picture = training_row(vocabulary, pictures.scenes[index], rng)
        rows.append(row)
        shown += [index] if picture else []
    batch = padded(rows)
    asked = batch.targets != IGNORED
    chosen = features[shown].float().flatten(0, 1)
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
