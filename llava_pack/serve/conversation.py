"""The page's conversation as the engine's: without Gradio, from the plain values it hands over."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio

from llava_pack.engine.port import Message, Part
from llava_pack.format.errors import UsageError
from llava_pack.serve.pictures import PictureDecoder
from llava_pack.serve.wire import MAX_PICTURES


async def engine_messages(
    turn: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    decoder: PictureDecoder,
    uploads: Path,
) -> tuple[Message, ...]:
    """Return the conversation up to and with this turn.

    Args:
        turn: the box: `text`, and `files` as paths of uploads.
        history: earlier messages: `role` and `content`, a list of texts and files.
        decoder: for the pictures.
        uploads: the only folder that a file may be in.

    Raises:
        UsageError: nothing was said, a file is no picture or gone, or there are too many.
    """
    files = [str(path) for path in turn.get("files") or ()]
    text = str(turn.get("text") or "").strip()
    if not (text or files):
        raise UsageError("say something about the picture, or add one")
    told = [*((_role(entry), _contents(entry)) for entry in history), ("user", _now(files, text))]
    if sum(is_file for _, parts in told for is_file, _ in parts) > MAX_PICTURES:
        raise UsageError(f"too many pictures: at most {MAX_PICTURES} fit; clear the conversation")
    messages: list[Message] = []
    for role, contents in told:
        parts: list[Part] = []
        for is_file, value in contents:
            parts.append(
                await decoder.from_bytes(await _read(value, uploads)) if is_file else value
            )
        messages.append(Message("assistant" if role == "assistant" else "user", tuple(parts)))
    return tuple(messages)


def _now(files: Sequence[str], text: str) -> list[tuple[bool, str]]:
    return [*((True, path) for path in files), *([(False, text)] if text else [])]


def _role(entry: Mapping[str, Any]) -> str:
    return str(entry.get("role"))


def _contents(entry: Mapping[str, Any]) -> list[tuple[bool, str]]:
    """Return (is a file, path or text) for each part of an earlier message."""
    content = entry.get("content")
    parts = content if isinstance(content, list) else [content]
    found: list[tuple[bool, str]] = []
    for part in parts:
        if isinstance(part, str):
            found.append((False, part))
        elif isinstance(part, Mapping) and part.get("type") == "text":
            found.append((False, str(part.get("text", ""))))
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
