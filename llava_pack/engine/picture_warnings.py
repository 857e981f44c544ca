"""What people should hear of the pictures that they asked about."""

from collections.abc import Iterable

from llava_pack.engine.port import Picture


def picture_warnings(pictures: Iterable[Picture]) -> tuple[str, ...]:
    """Return a sentence for each picture in which there is nothing to see.

    >>> picture_warnings([Picture(1, 1, bytes(3)), Picture(1, 1, bytes(3), "#000000")])
    ('picture 2 has only one colour, #000000: the model sees nothing',)
    """
    return tuple(
        f"picture {number} has only one colour, {seen.only_colour}: the model sees nothing"
        for number, seen in enumerate(pictures, 1)
        if seen.only_colour
    )
