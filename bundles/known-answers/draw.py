"""Draw the pictures of the known answers: `python bundles/known-answers/draw.py`.

They are plain shapes, so that nobody's licence or face is in a bundle, and of several proportions,
so that padding and tiling are tested too. Same bytes each time with the same Pillow.
"""

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent


def main() -> None:
    """Write every picture beside this file."""
    for name, picture in {
        "blue-square-wide": _blue_square(),
        "two-stars-tall": _two_stars(),
        "digit-seven": _digit("7"),
    }.items():
        picture.save(HERE / f"{name}.png", optimize=True)


def _blue_square() -> Image.Image:
    picture = Image.new("RGB", (420, 180), (250, 250, 250))
    ImageDraw.Draw(picture).rectangle((150, 35, 265, 145), fill=(0, 0, 255))
    return picture


def _two_stars() -> Image.Image:
    picture = Image.new("RGB", (180, 300), (250, 250, 250))
    for y, colour in ((85, (255, 255, 0)), (215, (0, 0, 255))):
        ImageDraw.Draw(picture).polygon(_star(90, y, 48), fill=colour)
    return picture


def _star(x: int, y: int, radius: int) -> list[tuple[float, float]]:
    points = []
    for n in range(10):
        length = radius if n % 2 == 0 else radius * 0.42
        angle = math.pi * n / 5
        points.append((x + length * math.sin(angle), y - length * math.cos(angle)))
    return points


def _digit(text: str) -> Image.Image:
    picture = Image.new("RGB", (240, 240), "white")
    font = ImageFont.load_default(size=200)
    ImageDraw.Draw(picture).text((120, 120), text, fill="black", font=font, anchor="mm")
    return picture


if __name__ == "__main__":
    main()
