"""The page's conversation as the engine's: without Gradio, from the plain values it hands over."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread

from llava_pack.engine.inputs.picture_decoder import read_picture_bytes
from llava_pack.engine.port import Message, Picture
from llava_pack.format.errors import UsageError
from llava_pack.serve.api.pictures import check_count
from llava_pack.serve.page.text import plain


@dataclass(frozen=True)
class PageTurn:
    """One message: its role, and its texts and files in order."""

    role: Literal["user", "assistant"]
    contents: tuple[tuple[bool, str], ...]
    """(is a file, path or text)."""


def turns(conversation: Sequence[Mapping[str, Any]]) -> tuple[PageTurn, ...]:
    """Return the conversation on the screen.

    Args:
        conversation: messages: `role` and `content`, a list of texts and files.

    Raises:
        UsageError: nothing was asked, or there are too many pictures.
    """
    told = tuple(
        PageTurn(
            "assistant" if entry.get("role") == "assistant" else "user", tuple(contents(entry))
        )
        for entry in conversation
    )
    if not told or told[-1].role != "user" or not told[-1].contents:
        raise UsageError("type a question, or add a picture")
    check_count(sum(is_file for turn in told for is_file, _ in turn.contents))
    return told


async def picture_files(told: Sequence[PageTurn], uploads: Path) -> tuple[bytes, ...]:
    """Return the bytes of each picture, in order; a file that is there twice is read once.

    Args:
        told: the conversation.
        uploads: the only folder that a file may be in.

    Raises:
        UsageError: a file is elsewhere, too large, or gone.
    """
    paths = [value for turn in told for is_file, value in turn.contents if is_file]
    read = {path: await anyio.to_thread.run_sync(_read, path, uploads) for path in set(paths)}
    return tuple(read[path] for path in paths)


def engine_messages(told: Sequence[PageTurn], pictures: Iterable[Picture]) -> tuple[Message, ...]:
    """Return the conversation for the engine.

    Args:
        told: the conversation.
        pictures: those of `picture_files`, decoded.
    """
    decoded = iter(pictures)
    return tuple(
        Message(
            turn.role,
            tuple(next(decoded) if is_file else value for is_file, value in turn.contents),
        )
        for turn in told
    )


def contents(entry: Mapping[str, Any]) -> list[tuple[bool, str]]:
    """Return (is a file, path or text) for each part of a message; a text as it was written."""
    content = entry.get("content")
    parts = content if isinstance(content, list) else [content]
    found: list[tuple[bool, str]] = []
    for part in parts:
        if isinstance(part, str):
            found.append((False, plain(part)))
        elif isinstance(part, Mapping) and part.get("type") == "text":
            found.append((False, plain(str(part.get("text", "")))))
        elif isinstance(part, Mapping):
            file = part.get("file", part)
            found.append((True, str(file.get("path", ""))))
    return found


def _read(path_text: str, uploads: Path) -> bytes:
    """Return an upload's bytes; a path out of the uploads never gets this far by the page."""
    if not _is_inside(path_text, uploads):
        raise UsageError("a picture must be uploaded first")
    try:
        return read_picture_bytes(path_text)
    except UsageError as error:
        raise UsageError(
            "a picture of this conversation is no longer available; add it again"
        ) from error


def _is_inside(path_text: str, folder: Path) -> bool:
    return folder.resolve() in Path(path_text).resolve().parents
