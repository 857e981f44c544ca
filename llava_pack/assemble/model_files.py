"""A folder below `model/`: its weights converted, its small files rewritten, nothing remote."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from llava_pack import __version__
from llava_pack.assemble.sources import Fetched
from llava_pack.assemble.staging import Staging
from llava_pack.checkpoint.config import (
    is_place,
    parse_config,
    provenance_rewrites,
    remote_ids,
    rewrite_pointer,
)
from llava_pack.convert.tokenizer import made_tokenizer
from llava_pack.format.errors import CheckpointError
from llava_pack.format.manifest import MODEL_ROOT, FileEntry, Rewrite

Origin = Mapping[str, Any]
Weights = Callable[[Path], Iterable[tuple[Path, Iterable[Origin]]]]
"""Writes files into a folder; yields each with what it was made from."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A value of a small file that names another folder of the bundle.

    Attributes:
        pointer: RFC 6901.
        old: what is there, None where nothing is.
        folder: the other folder's name.
    """

    text: str
    pointer: str
    old: str | None
    folder: str


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """What a folder below `model/` is made of.

    Attributes:
        tool: that writes the weights, as the manifest names it.
        texts: small files that are kept, each with the source that it is from.
        links: what is rewritten in them, beside what only says where a file came from.
    """

    name: str
    tool: str
    weights: Weights
    texts: Mapping[str, Fetched]
    links: tuple[Link, ...] = ()

    @property
    def path(self) -> str:
        """Return its path in the bundle."""
        return f"model/{self.name}"

    def rewrites(self) -> tuple[Rewrite, ...]:
        """Return what is changed in its small files."""
        linked = {(link.text, link.pointer) for link in self.links}
        emptied = (
            Rewrite(
                path=f"{self.path}/{text}",
                pointer=rule.pointer,
                old=_told(rule.old),
                new=rule.new,
                installed=None,
            )
            for text, source in self.texts.items()
            if text.endswith(".json")
            for rule in provenance_rewrites((source.folder / text).read_bytes(), subject=text)
            if (text, rule.pointer) not in linked
        )
        pointed = (
            Rewrite(
                path=f"{self.path}/{link.text}",
                pointer=link.pointer,
                old=_told(link.old),
                new=f"../{link.folder}",
                installed=f"{MODEL_ROOT}/{link.folder}",
            )
            for link in self.links
        )
        return (*emptied, *pointed)


def _told(old: str | None) -> str | None:
    """Return what a rewritten value was; of a path on somebody's machine its last part alone."""
    return PureWindowsPath(old).name if old is not None and is_place(old) else old


def stage_folder(
    staging: Staging, folder: ModelFolder, inputs: Iterable[str]
) -> tuple[Rewrite, ...]:
    """Write a folder, and return what was rewritten in it.

    Raises:
        PackError: see `convert`.
    """
    rewrites = folder.rewrites()

    def make() -> Iterator[FileEntry]:
        for path, origins in folder.weights(staging.clean(folder.path)):
            if path.name not in folder.texts:
                yield staging.written(path, derived(folder.tool, origins))
        for text, source in folder.texts.items():
            yield _rewritten(staging, source, f"{folder.path}/{text}", rewrites)
        if "tokenizer.model" in folder.texts and "tokenizer.json" not in folder.texts:
            source = folder.texts["tokenizer.model"]
            origin = derived("convert.tokenizer_json", [source.origins["tokenizer.model"]])
            made = made_tokenizer(source.folder)
            yield staging.text(f"{folder.path}/tokenizer.json", made, origin)

    staging.group(folder.path, [*inputs, folder.tool], make)
    return rewrites


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


def derived(tool: str, inputs: Iterable[Origin]) -> dict[str, Any]:
    """Return the origin of a file that was made from others."""
    return {
        "kind": "derived",
        "tool": f"llava-pack {tool}",
        "version": __version__,
        "inputs": [dict(origin) for origin in inputs],
    }


def read_json(source: Fetched, name: str) -> dict[str, Any]:
    """Return a small file of a source, empty where it has none of that name.

    Raises:
        CheckpointError: it is not a JSON object.
    """
    if name not in source.origins:
        return {}
    return parse_config((source.folder / name).read_bytes(), subject=name)


def _rewritten(
    staging: Staging, source: Fetched, path: str, rewrites: Iterable[Rewrite]
) -> FileEntry:
    """Write one small file, with the rewrites that are meant for it."""
    text = path.rpartition("/")[2]
    data, origin = (source.folder / text).read_bytes(), source.origins[text]
    rules = [rule for rule in rewrites if rule.path == path]
    for rule in rules:
        data = rewrite_pointer(data, rule.pointer, rule.new)
    return staging.text(path, data, derived("rewrite", [origin]) if rules else origin)
