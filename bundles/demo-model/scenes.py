"""Pictures of plain shapes, and the questions that can be asked about them.

The demo model is trained on these pictures and tested on others of the same kind. Everything here
is a pure function of a random generator that the caller passes in; only Pillow is needed.

Held-out items never meet the training pictures: `training_random` and `held_out` seed their
generators with strings of different prefixes (`training:` and `held-out:`), which Python hashes
with SHA-512, and every scene draws its places and paints from continuous ranges.

Lengths are fractions of the picture's long side, so a scene can be rendered at any size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
BACKGROUNDS = ("white", "grey", "beige", "light blue", "light green", "black")
KINDS = ("describe", "colour", "shape", "count", "exists", "background")
NUMBERS = ("no", "one", "two", "three")

_KIND_WEIGHTS = (20, 18, 16, 18, 22, 6)
_MARGIN = 0.03

Rgb = tuple[int, int, int]
Question = tuple[str, str, str]

_PAINTS: dict[str, tuple[Rgb, ...]] = {
    "red": ((255, 0, 0), (195, 25, 35)),
    "orange": ((255, 165, 0), (240, 120, 20)),
    "yellow": ((255, 255, 0), (240, 212, 50)),
    "green": ((0, 128, 0), (0, 240, 0), (55, 170, 85)),
    "blue": ((0, 0, 255), (50, 105, 220)),
    "purple": ((128, 0, 128), (130, 70, 190)),
    "pink": ((255, 192, 203), (255, 105, 180)),
    "black": ((0, 0, 0), (35, 35, 35)),
}
_GROUNDS: dict[str, tuple[Rgb, ...]] = {
    "white": ((255, 255, 255), (250, 250, 250)),
    "grey": ((128, 128, 128), (170, 170, 170), (211, 211, 211)),
    "beige": ((240, 226, 196), (245, 235, 215)),
    "light blue": ((173, 216, 230), (195, 215, 242)),
    "light green": ((190, 236, 190), (205, 232, 205)),
    "black": ((0, 0, 0), (18, 18, 18)),
}

_DESCRIBE = (
    "What is in this picture?",
    "What is in the picture?",
    "What is in this image?",
    "What is in the image?",
    "What's in this picture?",
    "What's in the image?",
    "Describe the picture.",
    "Describe this picture.",
    "Describe the image.",
    "Describe this image.",
    "Please describe the picture.",
    "What do you see?",
    "What do you see in this picture?",
    "What can you see in the image?",
    "What does the picture show?",
    "What is shown in the image?",
    "What is this?",
    "Tell me what you see.",
    "Can you describe the picture?",
    "Describe this image in detail.",
    "Describe the picture in one sentence.",
    "What objects are in the picture?",
    "What shapes do you see?",
    "Name the shapes in the picture.",
)
_COLOUR = (
    "What {c} is the {s}?",
    "What {c} is the {s}?",
    "Which {c} is the {s}?",
    "What is the {c} of the {s}?",
    "Tell me the {c} of the {s}.",
)
_ONLY_COLOUR = (
    ("What {c} is it?", "It"),
    ("Which {c} is it?", "It"),
    ("What {c} is the object?", "The object"),
    ("What {c} is the shape?", "The shape"),
    ("What is the {c} of the shape?", "The shape"),
)
_ONLY_SHAPE = (
    "What shape is it?",
    "What shape is this?",
    "Which shape is it?",
    "What is the shape of the object?",
)
_SHAPE = (
    "What shape is the {c} object?",
    "What shape is the {c} object?",
    "What is the shape of the {c} object?",
    "Which shape is {c}?",
    "What is the {c} object?",
    "What shape is the {c} thing?",
)
_COUNT = (
    "How many {n} are there?",
    "How many {n} are there?",
    "How many {n} are in the picture?",
    "How many {n} are in this image?",
    "How many {n} do you see?",
    "How many {n} can you see?",
    "Count the {n}.",
)
_EXISTS = (
    "Is there {x}?",
    "Is there {x}?",
    "Is there {x} in the picture?",
    "Is there {x} in this image?",
    "Do you see {x}?",
    "Can you see {x}?",
    "Does the picture show {x}?",
    "Does this image contain {x}?",
    "Are there any {p}?",
    "Are there any {p} in the picture?",
)
_BACKGROUND = (
    "What {c} is the background?",
    "What is the {c} of the background?",
    "What is the background {c}?",
    "Which {c} is the background?",
)


@dataclass(frozen=True)
class Thing:
    """One shape: what it is, where its centre lies, and how it is painted."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    turn: float
    """Degrees, counter-clockwise."""
    paint: Rgb


@dataclass(frozen=True)
class Scene:
    """A plain background with up to three things."""

    width: float
    height: float
    background: str
    ground: Rgb
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class Item:
    """One question about one picture, with the answer that counts as right."""

    picture: Image.Image
    question: str
    answer: str
    kind: str


def training_random(seed: int) -> Random:
    """Return the generator of the training set; its stream is disjoint from every held-out one."""
    return Random(f"training:{seed}")


def make_scene(rng: Random) -> Scene:
    """Draw a scene of one to three things, rarely none; no colour and shape pair comes twice."""
    width, height = _proportions(rng)
    background = rng.choice(BACKGROUNDS)
    ground = _mixed(rng, _GROUNDS[background], 4)
    wanted = rng.choices((0, 1, 2, 3), weights=(3, 31, 33, 33))[0]
    while True:
        things = _placed(rng, wanted, width, height, background)
        if things is not None:
            return Scene(width, height, background, ground, things)


def render(scene: Scene, size: int = 224) -> Image.Image:
    """Return the RGB picture of a scene, its long side `size` pixels, edges smoothed."""
    scale = 2 * size
    final = (max(1, round(scene.width * size)), max(1, round(scene.height * size)))
    picture = Image.new("RGB", (final[0] * 2, final[1] * 2), scene.ground)
    pen = ImageDraw.Draw(picture)
    for thing in scene.things:
        outline = [(x * scale, y * scale) for x, y in _outline(thing)]
        if thing.shape == "circle":
            (left, top), (right, bottom) = outline
            pen.ellipse((left, top, right, bottom), fill=thing.paint)
        else:
            pen.polygon(outline, fill=thing.paint)
    return picture.reduce(2)


def questions(scene: Scene, rng: Random) -> list[Question]:
    """Return one (question, answer, kind) of every kind that the scene allows, in random order."""
    asked = [
        _describe(scene, rng),
        _count(scene, rng),
        _exists(scene, rng),
        _background(scene, rng),
    ]
    asked += [found for found in (_colour(scene, rng), _shape(scene, rng)) if found]
    asked = [(_casual(question, rng), answer, kind) for question, answer, kind in asked]
    rng.shuffle(asked)
    return asked


def question(scene: Scene, rng: Random) -> Question:
    """Return one question, its kind drawn by the weights that training and tests share."""
    while True:
        kind = rng.choices(KINDS, weights=_KIND_WEIGHTS)[0]
        for asked in questions(scene, rng):
            if asked[2] == kind:
                return asked


def held_out(count: int, seed: int) -> list[Item]:
    """Return `count` items no training run has seen: other scenes, in other sizes.

    >>> items = held_out(2, seed=1)
    >>> len(items), items[0].picture.mode, items[0].kind in KINDS
    (2, 'RGB', True)
    """
    rng = Random(f"held-out:{seed}")
    items = []
    for _ in range(count):
        scene = make_scene(rng)
        text, answer, kind = question(scene, rng)
        items.append(Item(render(scene, rng.randint(96, 420)), text, answer, kind))
    return items


def _proportions(rng: Random) -> tuple[float, float]:
    if rng.random() < 0.35:
        return 1.0, 1.0
    ratio = math.exp(rng.uniform(-0.58, 0.58))
    return (1.0, 1.0 / ratio) if ratio >= 1 else (ratio, 1.0)


def _mixed(rng: Random, anchors: tuple[Rgb, ...], jitter: int) -> Rgb:
    if rng.random() < 0.3:
        anchors = (rng.choice(anchors),)
    weights = [rng.random() + 1e-3 for _ in anchors]
    total = sum(weights)
    red, green, blue = (
        sum(w * anchor[channel] for w, anchor in zip(weights, anchors, strict=True)) / total
        for channel in range(3)
    )
    return _jittered(rng, red, jitter), _jittered(rng, green, jitter), _jittered(rng, blue, jitter)


def _jittered(rng: Random, value: float, jitter: int) -> int:
    return min(255, max(0, round(value + rng.uniform(-jitter, jitter))))


def _placed(
    rng: Random, wanted: int, width: float, height: float, background: str
) -> tuple[Thing, ...] | None:
    """Return the things, or None when they did not find room."""
    short = min(width, height)
    things: list[Thing] = []
    for _ in range(60):
        if len(things) == wanted:
            return tuple(things)
        large = wanted == 1 and rng.random() < 0.5
        radius = rng.uniform(0.2, 0.5) if large else rng.uniform(0.12, 0.22)
        radius = min(radius, (0.5 if large else 0.45) * short)
        shape, colour = rng.choice(SHAPES), rng.choice(COLOURS)
        x = rng.uniform(radius, width - radius)
        y = rng.uniform(radius, height - radius)
        thing = Thing(
            shape, colour, x, y, radius, rng.uniform(-7, 7), _mixed(rng, _PAINTS[colour], 8)
        )
        if colour != background and all(_apart(thing, other) for other in things):
            things.append(thing)
    return tuple(things) if len(things) == wanted else None


def _apart(one: Thing, other: Thing) -> bool:
    far = math.hypot(one.x - other.x, one.y - other.y) > one.radius + other.radius + _MARGIN
    return far and (one.shape, one.colour) != (other.shape, other.colour)


def _outline(thing: Thing) -> list[tuple[float, float]]:
    if thing.shape == "circle":
        reach = 0.92 * thing.radius
        return [(thing.x - reach, thing.y - reach), (thing.x + reach, thing.y + reach)]
    if thing.shape == "square":
        corners = [(45.0 + 90 * step, 1.12) for step in range(4)]
    elif thing.shape == "triangle":
        corners = [(90.0 + 120 * step, 1.08) for step in range(3)]
    else:
        corners = [(90.0 + 36 * step, 1.08 if step % 2 == 0 else 0.45) for step in range(10)]
    return [
        (
            thing.x + thing.radius * reach * math.cos(math.radians(angle + thing.turn)),
            thing.y - thing.radius * reach * math.sin(math.radians(angle + thing.turn)),
        )
        for angle, reach in corners
    ]


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _spelling(rng: Random) -> str:
    return rng.choice(("colour", "color"))


def _casual(text: str, rng: Random) -> str:
    """Return the question as a hurried user types it: now and then without capital or mark."""
    if rng.random() < 0.08:
        text = text[0].lower() + text[1:]
    return text[:-1] if rng.random() < 0.08 else text


def _describe(scene: Scene, rng: Random) -> Question:
    """Name every thing, in the order of COLOURS and then of SHAPES: one scene, one answer."""
    text = rng.choice(_DESCRIBE)
    ordered = sorted(
        scene.things, key=lambda one: (COLOURS.index(one.colour), SHAPES.index(one.shape))
    )
    names = [_with_article(f"{thing.colour} {thing.shape}") for thing in ordered]
    if not names:
        return text, f"Nothing, only a {scene.background} background.", "describe"
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    answer = f"{listed[0].upper()}{listed[1:]} on a {scene.background} background."
    return text, answer, "describe"


def _colour(scene: Scene, rng: Random) -> Question | None:
    shapes = [thing.shape for thing in scene.things]
    if len(shapes) == 1 and rng.random() < 0.2:
        asked, subject = rng.choice(_ONLY_COLOUR)
        return asked.format(c=_spelling(rng)), f"{subject} is {scene.things[0].colour}.", "colour"
    absent = sorted(set(SHAPES) - set(shapes))
    once = [thing for thing in scene.things if shapes.count(thing.shape) == 1]
    text = rng.choice(_COLOUR)
    if once and rng.random() > 0.06:
        thing = rng.choice(once)
        if rng.random() < 0.15:
            return _is_coloured(thing, rng)
        return (
            text.format(c=_spelling(rng), s=thing.shape),
            f"The {thing.shape} is {thing.colour}.",
            "colour",
        )
    if not once:
        return None
    missing = rng.choice(absent)
    return text.format(c=_spelling(rng), s=missing), f"There is no {missing}.", "colour"


def _shape(scene: Scene, rng: Random) -> Question | None:
    colours = [thing.colour for thing in scene.things]
    if len(colours) == 1 and rng.random() < 0.2:
        return _only_shape(scene.things[0].shape, rng)
    once = [thing for thing in scene.things if colours.count(thing.colour) == 1]
    if not once:
        return None
    thing = rng.choice(once)
    answer = f"The {thing.colour} object is a {thing.shape}."
    return rng.choice(_SHAPE).format(c=thing.colour), answer, "shape"


def _is_coloured(thing: Thing, rng: Random) -> Question:
    asked = thing.colour if rng.random() < 0.5 else rng.choice(COLOURS)
    answer = f"{'Yes' if asked == thing.colour else 'No'}, the {thing.shape} is {thing.colour}."
    return f"Is the {thing.shape} {asked}?", answer, "colour"


def _only_shape(shape: str, rng: Random) -> Question:
    if rng.random() < 0.7:
        return rng.choice(_ONLY_SHAPE), f"It is a {shape}.", "shape"
    asked = shape if rng.random() < 0.5 else rng.choice(SHAPES)
    answer = f"{'Yes' if asked == shape else 'No'}, it is a {shape}."
    return f"Is {rng.choice(('it', 'this'))} a {asked}?", answer, "shape"


def _count(scene: Scene, rng: Random) -> Question:
    chosen = rng.random()
    shape, colour = rng.choice(SHAPES), rng.choice(COLOURS)
    if scene.things and rng.random() < 0.7:
        shape, colour = rng.choice(scene.things).shape, rng.choice(scene.things).colour
    if chosen < 0.5:
        noun, number = rng.choice(("object", "shape", "thing")), len(scene.things)
    elif chosen < 0.85:
        noun, number = shape, sum(thing.shape == shape for thing in scene.things)
    else:
        noun = f"{colour} object"
        number = sum(thing.colour == colour for thing in scene.things)
    answer = f"I count {NUMBERS[number]} {noun}{'' if number == 1 else 's'}."
    return rng.choice(_COUNT).format(n=f"{noun}s"), answer, "count"


def _exists(scene: Scene, rng: Random) -> Question:
    shape, colour = rng.choice(SHAPES), rng.choice(COLOURS)
    positive = bool(scene.things) and rng.random() < 0.5
    if positive:
        thing = rng.choice(scene.things)
        shape, colour = thing.shape, thing.colour
    elif scene.things and rng.random() < 0.7:
        thing = rng.choice(scene.things)
        shape, colour = rng.choice(((thing.shape, colour), (shape, thing.colour)))
    chosen = rng.random()
    if chosen < 0.5:
        asked = noun = _with_article(f"{colour} {shape}")
        name = f"{colour} {shape}"
        there = any((thing.colour, thing.shape) == (colour, shape) for thing in scene.things)
    elif chosen < 0.75:
        asked = noun = _with_article(shape)
        name = shape
        there = any(thing.shape == shape for thing in scene.things)
    else:
        noun, name = _with_article(f"{colour} object"), f"{colour} object"
        asked = rng.choice((noun, f"anything {colour}", f"something {colour}"))
        there = any(thing.colour == colour for thing in scene.things)
    answer = f"Yes, there is {noun}." if there else f"No, there is no {name}."
    return rng.choice(_EXISTS).format(x=asked, p=f"{name}s"), answer, "exists"


def _background(scene: Scene, rng: Random) -> Question:
    text = rng.choice(_BACKGROUND).format(c=_spelling(rng))
    return text, f"The background is {scene.background}.", "background"
