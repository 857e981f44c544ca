"""The page's conversation as the engine's: without Gradio, from the plain values it hands over."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio

from llava_pack.engine.port import Message, Part
from llava_pack.format.errors import UsageError
from llava_pack.serve.page_text import plain
from llava_pack.serve.pictures import PictureDecoder
from llava_pack.serve.wire import MAX_PICTURES


async def engine_messages(
    conversation: Sequence[Mapping[str, Any]], decoder: PictureDecoder, uploads: Path
) -> tuple[Message, ...]:
    """Return the conversation for the engine.

    Args:
        conversation: messages: `role` and `content`, a list of texts and files.
        decoder: for the pictures.
        uploads: the only folder that a file may be in.

    Raises:
        UsageError: nothing was asked, a file is no picture or gone, or there are too many.
    """
    told = [(str(entry.get("role")), contents(entry)) for entry in conversation]
    if not told or told[-1][0] != "user" or not told[-1][1]:
        raise UsageError("say something about the picture, or add one")
    if sum(is_file for _, parts in told for is_file, _ in parts) > MAX_PICTURES:
        raise UsageError(f"too many pictures: at most {MAX_PICTURES} fit; clear the conversation")
    messages: list[Message] = []
    for role, values in told:
        parts: list[Part] = []
        for is_file, value in values:
            parts.append(
                await decoder.from_bytes(await _read(value, uploads)) if is_file else value
            )
        messages.append(Message("assistant" if role == "assistant" else "user", tuple(parts)))
    return tuple(messages)


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


async def _read(path_text: str, uploads: Path) -> bytes:
    """Return an upload's bytes; a path out of the uploads never gets this far by the page."""
    if not _is_inside(path_text, uploads):
        raise UsageError("a picture must be uploaded first")
    try:
        return await anyio.Path(path_text).read_bytes()
    except OSError as error:
        raise UsageError("a picture of this conversation is gone; add it again") from error


def _is_inside(path_text: str, folder: Path) -> bool:
    return folder.resolve() in Path(path_text).resolve().parents
