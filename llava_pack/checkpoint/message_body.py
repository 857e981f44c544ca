"""Where the pictures of one message stand in its text. Pure.

LLaVA was trained with a message's one picture before its text, on a line of its own, wherever a
person had put it. Pictures that stand in a text stay there.

Source: haotian-liu/LLaVA llava/train/train.py preprocess_multimodal (a picture is moved to the
front); LLaVA-VL/LLaVA-NeXT llava/train/train.py preprocess_multimodal (one picture only).
"""

from collections.abc import Sequence
from typing import TypeVar

Picture = TypeVar("Picture")


def is_interleaved(parts: Sequence[str | Picture]) -> bool:
    """Return whether pictures stand in a text: one between two, or several not all before it.

    >>> is_interleaved(["What?", 1]), is_interleaved([1, 2, "same?"]), is_interleaved([1, "x", 2])
    (False, False, True)
    >>> is_interleaved(["Is ", 1, " red?"])
    True
    """
    kinds = "".join("t" if isinstance(part, str) else "p" for part in parts)
    return "p" in kinds.lstrip("p") and (kinds.count("p") > 1 or kinds.endswith("t"))


def body(parts: Sequence[str | Picture]) -> list[str | Picture]:
    r"""Return a message as it is written: pictures before any text on lines of their own.

    A picture between texts stands in them as they were given; a line end keeps letters off it.

    >>> body(["What is it?", 1])
    [1, '\n', 'What is it?']
    >>> body([1, "or ", 2, "?"])
    [1, '\n', 'or ', 2, '?']
    """
    if not is_interleaved(parts):
        pictures = [part for part in parts if not isinstance(part, str)]
        texts = [part for part in parts if isinstance(part, str)]
        return [*(one for picture in pictures for one in (picture, "\n")), "\n".join(texts)]
    written: list[str | Picture] = []
    in_text = False
    for index, part in enumerate(parts):
        if isinstance(part, str):
            written += [*_between(parts[index - 1] if in_text else "", part), part]
            in_text = True
        elif in_text:
            written += [*_between(parts[index - 1], part), part]
        else:
            written += [part, "\n"]
    return written


def _between(before: str | Picture, after: str | Picture) -> list[str]:
    """Return the line end that keeps two texts, or a letter and a picture, apart."""
    if isinstance(before, str) and isinstance(after, str):
        return ["\n"] if before and after else []
    letter = before[-1:] if isinstance(before, str) else after[:1] if isinstance(after, str) else ""
    return ["\n"] if letter.isalnum() else []
