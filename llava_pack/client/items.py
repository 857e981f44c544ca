"""What `ask` asks about: the pictures of a folder or a list, and what of a folder is left out."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_pack.client.turns import placed
from llava_pack.engine.inputs.picture_formats import NAMES, SUFFIXES
from llava_pack.format.errors import UsageError, reason_of

_DEBRIS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})
"""What file managers leave in folders of pictures; nobody put it there."""


@dataclass(frozen=True, slots=True)
class Item:
    """One picture and what is asked about it."""

    image: str
    """As it was given, or relative to the folder: what the output says."""
    path: Path
    prompt: str

    @property
    def key(self) -> tuple[str, str]:
        """What makes it the same question."""
        return self.image, self.prompt


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something in a folder that is not asked about."""

    path: str
    """Relative to the folder."""
    why: str


@dataclass(frozen=True, slots=True)
class Selection:
    """What is asked about, and what is not."""

    items: tuple[Item, ...]
    left_out: tuple[LeftOut, ...] = ()


def select_items(source: Path, prompt: str | None, out: Path | None = None) -> Selection:
    """Return what is asked about: every picture below a folder, or every line of a JSONL file.

    Args:
        source: the folder or the file; a line has `image`, and may have a `prompt` of its own.
        prompt: the question where a line has none.
        out: where answers are written; it may be in the folder.

    Raises:
        UsageError: there is no picture, a line is not what it should be, or nothing is asked.
    """
    if source.is_dir():
        chosen = _of_folder(source, prompt, out)
    else:
        lines = _lines(source)
        chosen = Selection(tuple(_of_line(source, number, line, prompt) for number, line in lines))
    if not chosen.items:
        raise UsageError(f"no pictures found, expected {NAMES} files", subject=str(source))
    return chosen


def _of_folder(source: Path, prompt: str | None, out: Path | None) -> Selection:
    left_out: list[LeftOut] = []
    items: list[Item] = []
    for path in sorted(_entries(source, left_out)):
        name = path.relative_to(source).as_posix()
        if path.suffix.lower() in SUFFIXES:
            items.append(_item(name, path, prompt))
        elif not _is_same(path, out):
            left_out.append(LeftOut(name, f"its name is not a picture's, expected {NAMES}"))
    return Selection(tuple(items), tuple(sorted(left_out, key=lambda one: one.path)))


def _is_same(path: Path, out: Path | None) -> bool:
    try:
        return out is not None and path.samefile(out)
    except OSError:  # the answers are not there yet, or a link leads nowhere
        return False


def _entries(source: Path, left_out: list[LeftOut]) -> Iterator[Path]:
    """Yield the files below a folder that somebody put there, and note folders not read."""

    def note(folder: str | Path, why: str) -> None:
        left_out.append(LeftOut(f"{Path(folder).relative_to(source).as_posix()}/", why))

    def unread(error: OSError) -> None:
        note(error.filename, f"cannot be read: {reason_of(error)}")

    for place, folders, names in os.walk(source, onerror=unread):
        for folder in (Path(place, one) for one in folders):
            if folder.is_symlink():
                note(folder, "a link to a folder, which is not followed")
        yield from (Path(place, name) for name in names if not _is_debris(name))


def _is_debris(name: str) -> bool:
    """Return whether a system made a file for itself; a hidden picture is a picture.

    >>> _is_debris("._cat.jpg"), _is_debris(".DS_Store"), _is_debris(".cat.jpg")
    (True, True, False)
    """
    hidden = name.startswith(".") and Path(name).suffix.lower() not in SUFFIXES
    return hidden or name.startswith("._") or name.lower() in _DEBRIS


def _lines(source: Path) -> list[tuple[int, str]]:
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise UsageError(f"cannot be read: {why}", subject=str(source)) from error
    numbered = enumerate(text.splitlines(), 1)
    return [(number, line) for number, line in numbered if line.strip()]


def _of_line(source: Path, number: int, line: str, prompt: str | None) -> Item:
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    values = values if isinstance(values, dict) else {}
    image, own = values.get("image"), values.get("prompt")
    if not isinstance(image, str) or not isinstance(own, str | None):
        raise UsageError(
            f'line {number}: expected {{"image": PATH}}, optionally with a "prompt"',
            subject=str(source),
        )
    return _item(image, source.parent / image, own or prompt)


def _item(image: str, path: Path, prompt: str | None) -> Item:
    if not prompt:
        raise UsageError(f"there is no question about {image}", hint='add --prompt "What is it?"')
    placed(prompt, [image])
    return Item(image, path, prompt)


def left(items: Sequence[Item], done: set[tuple[str, str]]) -> list[Item]:
    """Return the items without an answer, each once."""
    asked = set(done)
    fresh: list[Item] = []
    for item in items:
        if item.key not in asked:
            asked.add(item.key)
            fresh.append(item)
    return fresh
