"""The model's and the tower's folders of a bundle: converted, rewritten, with nothing remote."""

from collections.abc import Iterable, Mapping
from typing import Any

from llava_pack import __version__
from llava_pack.assemble.sources import Fetched
from llava_pack.assemble.staging import Staging
from llava_pack.checkpoint.config import (
    parse_config,
    provenance_rewrites,
    remote_ids,
    rewrite_pointer,
    vision_tower_id,
    vision_tower_pointer,
)
from llava_pack.convert.shards import to_safetensors
from llava_pack.convert.tokenizer import added_tokens, tokenizer_json
from llava_pack.convert.tower import slim_tower
from llava_pack.format.errors import CheckpointError
from llava_pack.format.manifest import MODEL_ROOT, FileEntry, Rewrite

KEPT = (
    "generation_config.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
)


def stage_model(
    staging: Staging, source: Fetched, name: str, tower: str
) -> tuple[tuple[FileEntry, ...], tuple[Rewrite, ...]]:
    """Write `model/<name>`, and return its files and what was rewritten in them.

    Args:
        staging: the bundle in the making.
        source: the checkpoint as it was fetched.
        name: the model's folder.
        tower: the tower's folder beside it.

    Raises:
        CheckpointError: the checkpoint is damaged, or names something remote that has no place in
            the bundle.
    """
    folder = f"model/{name}"
    rewrites = model_rewrites(source, folder, tower)

    def make() -> Iterable[FileEntry]:
        target = staging.clean(folder)
        made_from = _derived("convert.to_safetensors", source.weights, source)
        for path in to_safetensors(source.folder, target, progress=staging.progress):
            yield staging.written(path, made_from)
        for text in ("config.json", *KEPT):
            if text in source.origins:
                yield rewritten(staging, source, text, folder, rewrites)
        if "tokenizer.json" not in source.origins and "tokenizer.model" in source.origins:
            yield staging.text(
                f"{folder}/tokenizer.json",
                made_tokenizer(source),
                _derived("convert.tokenizer_json", ("tokenizer.model",), source),
            )

    inputs = [*source.digests(), name, tower]
    return staging.group(folder, inputs, make), rewrites


def stage_tower(
    staging: Staging, source: Fetched, name: str
) -> tuple[tuple[FileEntry, ...], tuple[Rewrite, ...]]:
    """Write `model/<name>` with the vision half of a CLIP repository.

    Raises:
        CheckpointError: the repository is damaged, or no CLIP.
    """
    folder = f"model/{name}"
    rewrites = tuple(
        rule
        for text in ("config.json", "preprocessor_config.json")
        if text in source.origins
        for rule in provenance(source, text, folder)
    )

    def make() -> Iterable[FileEntry]:
        target = staging.clean(folder)
        made_from = _derived("convert.slim_tower", source.weights, source)
        for path in slim_tower(source.folder, target, staging.progress):
            if path.suffix == ".json" and path.name in source.origins:
                path.unlink()
                yield rewritten(staging, source, path.name, folder, rewrites)
            else:
                yield staging.written(path, made_from)

    return staging.group(folder, [*source.digests(), name], make), rewrites


def check_nothing_remote(staging: Staging) -> None:
    """Stop when any JSON file of the model folders names something that a loader would look up.

    Raises:
        CheckpointError: naming every file, pointer and value.
    """
    found = [
        f"{entry.path} {pointer}: {value!r}"
        for entry in staging.entries
        if entry.path.startswith("model/") and entry.path.endswith(".json")
        for pointer, value in remote_ids(
            (staging.root / entry.path).read_bytes(), subject=entry.path
        )
    ]
    if found:
        raise CheckpointError(
            f"names things that a server without network cannot look up: {'; '.join(found)}",
            subject="model",
            hint="remove it from the source, or use a checkpoint that does not name it",
        )


def model_rewrites(source: Fetched, folder: str, tower: str) -> tuple[Rewrite, ...]:
    """Return what is changed in a checkpoint's small files: its tower, and where it came from.

    Raises:
        CheckpointError: config.json names no tower.
    """
    texts = [text for text in ("config.json", *KEPT) if text in source.origins]
    jsons = [text for text in texts if text.endswith(".json")]
    rules = [rule for text in jsons for rule in provenance(source, text, folder)]
    data = (source.folder / "config.json").read_bytes()
    config = parse_config(data)
    pointer = vision_tower_pointer(config)
    if pointer is None:
        raise CheckpointError(
            "names no vision tower, expected mm_vision_tower",
            subject="config.json",
            hint="the recipe expects a LLaVA checkpoint in its original format",
        )
    rules.append(
        Rewrite(
            path=f"{folder}/config.json",
            pointer=pointer,
            old=vision_tower_id(config),
            new=f"../{tower}",
            installed=f"{MODEL_ROOT}/{tower}",
        )
    )
    return tuple(rules)


def provenance(source: Fetched, text: str, folder: str) -> list[Rewrite]:
    """Return the rewrites that empty what only says where a file came from."""
    data = (source.folder / text).read_bytes()
    return [
        Rewrite(
            path=f"{folder}/{text}",
            pointer=rule.pointer,
            old=rule.old,
            new=rule.new,
            installed=None,
        )
        for rule in provenance_rewrites(data, subject=text)
    ]


def rewritten(
    staging: Staging, source: Fetched, text: str, folder: str, rewrites: Iterable[Rewrite]
) -> FileEntry:
    """Write one small file, with the rewrites that are meant for it."""
    path = f"{folder}/{text}"
    data = (source.folder / text).read_bytes()
    rules = [rule for rule in rewrites if rule.path == path]
    for rule in rules:
        data = rewrite_pointer(data, rule.pointer, rule.new)
    origin = source.origins[text]
    return staging.text(path, data, _derived("rewrite", (text,), source) if rules else origin)


def made_tokenizer(source: Fetched) -> bytes:
    """Return tokenizer.json for a checkpoint that came without one."""
    config, added = (
        parse_config((source.folder / name).read_bytes(), subject=name)
        if name in source.origins
        else {}
        for name in ("tokenizer_config.json", "added_tokens.json")
    )
    model = (source.folder / "tokenizer.model").read_bytes()
    return tokenizer_json(model, config, added_tokens(added))


def _derived(tool: str, inputs: Iterable[str], source: Fetched) -> dict[str, Any]:
    return derived(tool, [source.origins[name] for name in inputs])


def derived(tool: str, inputs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the origin of a file that was made from others."""
    return {
        "kind": "derived",
        "tool": f"llava-pack {tool}",
        "version": __version__,
        "inputs": [dict(origin) for origin in inputs],
    }
