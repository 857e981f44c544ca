"""The training set: rendered pictures, their scenes, and what the tower is asked to see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, make_scene, render, training_random

SIDE = 70
PATCH = 14
GRID = SIDE // PATCH
TOKENS = GRID * GRID
CELLS = 7
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Pictures:
    """Rendered scenes and their dense targets; the first axis counts pictures."""

    scenes: list[Scene]
    pixels: torch.Tensor
    """uint8 (n, SIDE, SIDE, 3), padded to a square and resized as CLIP does."""
    things: torch.Tensor
    """int64 (n, 3, 3): patch, colour and shape of every thing, -1 where there is none."""
    offsets: torch.Tensor
    """float32 (n, 3, 2): the centre inside its patch, 0 to 1."""
    mask: torch.Tensor
    """uint8 (n, TOKENS, CELLS * CELLS): which cells of a patch lie on a thing."""
    counts: torch.Tensor
    grounds: torch.Tensor


def squared(picture: Image.Image) -> Image.Image:
    """Return the picture centred on a square of CLIP's mean colour.

    Source: haotian-liu/LLaVA, llava/mm_utils.py, expand2square.
    """
    width, height = picture.size
    side = max(width, height)
    canvas = Image.new("RGB", (side, side), tuple(int(255 * value) for value in MEAN))
    canvas.paste(picture, ((side - width) // 2, (side - height) // 2))
    return canvas


def as_pixels(picture: Image.Image) -> np.ndarray:
    """Return uint8 (SIDE, SIDE, 3): padded to a square, then resized bicubically."""
    resized = squared(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.uint8)


def normalized(pixels: torch.Tensor) -> torch.Tensor:
    """Return float32 (n, 3, SIDE, SIDE), scaled by CLIP's mean and deviation."""
    values = pixels.float().div(255)
    values = (values - torch.tensor(MEAN)) / torch.tensor(STD)
    return values.permute(0, 3, 1, 2).contiguous()


def make_pictures(count: int, seed: int) -> Pictures:
    """Draw and render `count` training scenes."""
    rng = training_random(seed)
    scenes, pixels, masks = [], np.empty((count, SIDE, SIDE, 3), np.uint8), []
    things = torch.full((count, 3, 3), -1)
    offsets = torch.zeros(count, 3, 2)
    for index in range(count):
        scene = make_scene(rng)
        scenes.append(scene)
        pixels[index] = as_pixels(render(scene, rng.choice((70, 96, 120, 160, 200, 256, 336))))
        masks.append(_mask(scene))
        left, top = (1 - scene.width) / 2, (1 - scene.height) / 2
        for place, thing in enumerate(scene.things):
            column, row = (thing.x + left) * GRID, (thing.y + top) * GRID
            patch = int(row) * GRID + int(column)
            kind = (patch, COLOURS.index(thing.colour), SHAPES.index(thing.shape))
            things[index, place] = torch.tensor(kind)
            offsets[index, place] = torch.tensor((column % 1, row % 1))
    return Pictures(
        scenes=scenes,
        pixels=torch.from_numpy(pixels),
        things=things,
        offsets=offsets,
        mask=torch.from_numpy(np.stack(masks)),
        counts=torch.tensor([len(scene.things) for scene in scenes]),
        grounds=torch.tensor([BACKGROUNDS.index(scene.background) for scene in scenes]),
    )


def _mask(scene: Scene) -> np.ndarray:
    """Return uint8 (TOKENS, CELLS * CELLS), 1 where a cell lies on a thing."""
    black = (0, 0, 0)
    white = tuple(
        type(thing)(**{**vars(thing), "paint": (255, 255, 255)}) for thing in scene.things
    )
    drawn = render(Scene(scene.width, scene.height, scene.background, black, white), SIDE)
    canvas = Image.new("L", (SIDE, SIDE))
    canvas.paste(drawn.convert("L"), ((SIDE - drawn.width) // 2, (SIDE - drawn.height) // 2))
    cell = SIDE // (GRID * CELLS)
    cells = np.asarray(canvas.reduce(cell)) > 127
    cells = cells.reshape(GRID, CELLS, GRID, CELLS).transpose(0, 2, 1, 3)
    return cells.reshape(TOKENS, CELLS * CELLS).astype(np.uint8)
