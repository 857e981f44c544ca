"""A checkpoint's JSON files: what they point to, and how to rewrite one value of them."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_pack.format.errors import CheckpointError

MAX_CONFIG_BYTES = 64 << 20
TOWER_KEYS = ("mm_vision_tower", "vision_tower")

_NAMES = frozenset(
    {
        *TOWER_KEYS,
        "_name_or_path",
        "name_or_path",
        "base_model_name_or_path",
        "model_name_or_path",
        "pretrained_model_name_or_path",
        "tokenizer_name_or_path",
        "processor_name_or_path",
        "image_processor_name_or_path",
        "tokenizer_name",
        "backbone",
        "assistant_model",
        "speculator_name_or_path",
    }
)
"""Keys whose value a loader gives to `from_pretrained`; at any depth."""

_PROVENANCE = frozenset({"_name_or_path", "name_or_path"})
"""Keys that only say where a file came from; an empty text is their default."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_MEDIA_TYPE = re.compile(r"(application|audio|font|image|message|model|multipart|text|video)/.+")
_FILE = re.compile(r".+\.(json|jinja|txt|model|bin|safetensors|py|md)")
_ABSOLUTE = re.compile(r"[/~\\]|[A-Za-z]:[\\/]")
_LOCAL = re.compile(r"[./~\\{]|[A-Za-z]:[\\/]")
_VOCABULARY_KEYS = frozenset({"vocab", "merges", "added_tokens", "added_tokens_decoder"})
Wanted = Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class PointerRewrite:
    """One value of a JSON file to replace: RFC 6901 pointer, old value, new value."""

    pointer: str
    old: str
    new: str


def read_small(path: Path, *, max_bytes: int = MAX_CONFIG_BYTES) -> bytes:
    """Return a small file's bytes, looking at its size first.

    Raises:
        CheckpointError: it is far larger than such a file is.
    """
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise CheckpointError(
            f"has {path.stat().st_size} bytes, expected at most {max_bytes}", subject=path.name
        )
    return data


def parse_config(data: bytes, *, subject: str = "config.json") -> dict[str, Any]:
    """Return a JSON object from outside.

    Raises:
        CheckpointError: it is too large, malformed, or no object.
    """
    with _bounded(data, subject):
        value = json.loads(data.decode("utf-8-sig"))
    if not isinstance(value, dict):
        raise CheckpointError(
            f"expected a JSON object, got a {type(value).__name__}", subject=subject
        )
    return value


def read_config(path: Path) -> dict[str, Any]:
    """Return the JSON object of a small file, empty where there is no such file.

    Raises:
        CheckpointError: it is too large, malformed, or no object.
    """
    return parse_config(read_small(path), subject=path.name) if path.is_file() else {}


@contextmanager
def _bounded(data: bytes, subject: str) -> Iterator[None]:
    """Refuse JSON that is too large, malformed, or too deep to be looked through in the block."""
    if data.lstrip()[:1] == b"<":
        raise CheckpointError(
            "is a web page, expected JSON",
            subject=subject,
            hint="the server answered the download with an error or a login: download it again",
        )
    if len(data) > MAX_CONFIG_BYTES:
        raise CheckpointError(
            f"has {len(data)} bytes, expected at most {MAX_CONFIG_BYTES}", subject=subject
        )
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not valid JSON ({error})", subject=subject) from error


def vision_tower_id(config: Mapping[str, Any]) -> str | None:
    """Return what the configuration names as its vision tower: a Hub id, a path, or None.

    Source: haotian-liu/LLaVA llava/model/multimodal_encoder/builder.py.

    >>> vision_tower_id({"mm_vision_tower": "openai/clip-vit-large-patch14-336"})
    'openai/clip-vit-large-patch14-336'
    """
    key = _tower_key(config)
    return None if key is None else str(config[key])


def vision_tower_pointer(config: Mapping[str, Any]) -> str | None:
    """Return the JSON pointer of the value that `vision_tower_id` returns.

    >>> vision_tower_pointer({"mm_vision_tower": "openai/clip-vit-large-patch14-336"})
    '/mm_vision_tower'
    """
    key = _tower_key(config)
    return None if key is None else f"/{key}"


def _tower_key(config: Mapping[str, Any]) -> str | None:
    named = (key for key in TOWER_KEYS if isinstance(config.get(key), str) and config[key])
    return next(named, None)


def vision_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a CLIP configuration says of its vision side."""
    inner = config.get("vision_config")
    return inner if isinstance(inner, Mapping) else config


def remote_ids(data: bytes, *, subject: str = "config.json") -> list[tuple[str, str]]:
    """Return pointer and value of everything that a loader would look for on a Hub.

    Values of the keys that name a model or a part of one, unless they are paths; `auto_map` in
    whole, since it names code; and any other text that has the form `owner/name`. The token lists
    of a tokenizer are words, not names, and are passed over.

    Raises:
        CheckpointError: the file is no JSON.

    >>> remote_ids(b'{"mm_vision_tower": "openai/clip", "text_config": {"_name_or_path": ""}}')
    [('/mm_vision_tower', 'openai/clip')]
    """
    return _texts(data, _is_remote, subject)


def _texts(data: bytes, wanted: Wanted, subject: str) -> list[tuple[str, str]]:
    """Return pointer and value of the texts that are wanted, by their key and themselves."""
    with _bounded(data, subject):
        return list(_found(json.loads(data.decode("utf-8-sig")), wanted, "", ""))


def _found(value: Any, wanted: Wanted, key: str, pointer: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in _VOCABULARY_KEYS:
                continue
            inside = "auto_map" if key == "auto_map" else name
            yield from _found(inner, wanted, inside, f"{pointer}/{_escaped(name)}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _found(inner, wanted, key, f"{pointer}/{index}")
    elif isinstance(value, str) and wanted(key, value):
        yield pointer, value


def _is_remote(key: str, value: str) -> bool:
    if key == "auto_map":
        return True
    if not value or _LOCAL.match(value):
        return False
    if key in _NAMES:
        return True
    return (
        _HUB_ID.fullmatch(value) is not None
        and _MEDIA_TYPE.fullmatch(value) is None
        and _FILE.fullmatch(value) is None
    )


def provenance_rewrites(data: bytes, *, subject: str = "config.json") -> list[PointerRewrite]:
    """Return the rewrites that empty every value that only says where a file came from.

    Raises:
        CheckpointError: the file is no JSON.
    """
    return [
        PointerRewrite(pointer, old, "") for pointer, old in _texts(data, _is_provenance, subject)
    ]


def _is_provenance(key: str, value: str) -> bool:
    return key in _PROVENANCE and (_is_remote(key, value) or is_place(value))


def is_place(text: str) -> bool:
    """Whether a value is a path that means something on the machine that wrote it only.

    >>> is_place("/home/me/vicuna"), is_place("../clip"), is_place("openai/clip")
    (True, False, False)
    """
    return _ABSOLUTE.match(text) is not None


def rewrite_pointer(data: bytes, pointer: str, value: str | None) -> bytes:
    """Return a JSON file with one value replaced, or taken out where `value` is None.

    Everything else stays as it was: order, numbers, two-space indentation, final newline.

    Args:
        data: a JSON object as published.
        pointer: RFC 6901; the value must exist.
        value: the new text.

    Raises:
        CheckpointError: the file is no JSON object, or has no such value.
    """
    config = parse_config(data)
    *way, last = [_unescaped(part) for part in pointer.removeprefix("/").split("/")]
    try:
        holder: Any = config
        for part in way:
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        key: Any = int(last) if isinstance(holder, list) else last
        _ = holder[key]
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise CheckpointError(f"there is no value at {pointer}", subject="config.json") from error
    if value is None:
        del holder[key]
    else:
        holder[key] = value
    text = json.dumps(config, indent=2, ensure_ascii=data.isascii())
    return text.encode() + (b"\n" if data.rstrip(b" \t").endswith(b"\n") else b"")


def _escaped(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")


def _unescaped(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")
