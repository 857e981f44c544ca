"""The model folders of a bundle, in the layout that was chosen."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llava_pack.assemble.chat_template import chat_template
from llava_pack.assemble.model_files import (
    KEPT,
    derived,
    made_tokenizer,
    model_rewrites,
    provenance,
    rewritten,
    stage_model,
    stage_tower,
)
from llava_pack.assemble.packing import Packing
from llava_pack.assemble.sources import Fetched
from llava_pack.assemble.staging import Staging
from llava_pack.checkpoint.config import parse_config
from llava_pack.checkpoint.kind import backbone
from llava_pack.convert.merge import merged_parts
from llava_pack.convert.native import to_native
from llava_pack.convert.native_config import PICTURE_ENDS
from llava_pack.convert.native_tokenizer import is_legacy
from llava_pack.convert.parts import Parts, original_parts
from llava_pack.convert.quantize import quantize
from llava_pack.convert.shards import opened, to_safetensors, write_file, write_shards
from llava_pack.engine.tokens import named_specials
from llava_pack.format.errors import UsageError
from llava_pack.format.manifest import MODEL_ROOT, FileEntry, Rewrite
from llava_pack.recipe import Recipe

Rewrites = tuple[Rewrite, ...]
_CONVERTED = (
    *KEPT,
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.jinja",
    "chat_template.json",
)


def stage_packing(
    staging: Staging, packing: Packing, recipe: Recipe, sources: Mapping[str, Fetched]
) -> Rewrites:
    """Write the model's folders, and return what was rewritten in them.

    Args:
        staging: the bundle in the making.
        packing: the layout.
        recipe: the folders' names.
        sources: what was fetched, by `model`, `base` and `vision_tower`.

    Raises:
        PackError: see `convert`.
    """
    if packing.converted:
        return _stage_converted(staging, sources["model"], recipe)
    if packing.format == "hf":
        _stage_native(staging, packing, recipe, sources)
        return ()
    if recipe.vision_tower is None:
        raise UsageError("the original layout needs [vision_tower]", subject=recipe.name)
    tower = recipe.vision_tower.name
    if recipe.model.base is None:
        _, rules = stage_model(staging, sources["model"], recipe.model.name, tower)
    elif packing.merge:
        rules = _stage_merged(staging, recipe.model.name, tower, sources)
    else:
        base = recipe.model.base.name
        rules = _stage_adapter(staging, sources["model"], recipe.model.name, tower, base)
        rules += _stage_base(staging, sources["base"], base)
    _, tower_rules = stage_tower(staging, sources["vision_tower"], tower)
    return (*rules, *tower_rules)


def _stage_native(
    staging: Staging, packing: Packing, recipe: Recipe, sources: Mapping[str, Fetched]
) -> None:
    folder = f"model/{recipe.model.name}"
    texts = sources["base" if packing.merge else "model"]
    language = backbone(_json(texts, "config.json"))
    legacy = is_legacy(_json(texts, "tokenizer_config.json"), language)
    ends = bool(_json(sources["model"], "config.json").get(PICTURE_ENDS, False))
    template = chat_template(
        recipe.model.conv_mode,
        legacy=legacy,
        picture_ends=ends,
        named=named_specials(texts.folder),
    )
    tower = sources["vision_tower"].folder

    def make() -> Iterable[FileEntry]:
        target = staging.clean(folder)
        with _parts(packing, sources) as parts:
            if packing.precision is None:
                tool = "convert.to_native"
                paths = to_native(
                    parts, tower, target, chat_template=template, progress=staging.progress
                )
            else:
                tool = f"convert.quantize {packing.precision}"
                paths = quantize(
                    parts,
                    tower,
                    target,
                    precision=packing.precision,
                    chat_template=template,
                    progress=staging.progress,
                )
        origin = derived(tool, _weights(sources.values()))
        for path in paths:
            yield staging.written(path, origin)

    inputs = [digest for source in sources.values() for digest in source.digests()]
    staging.group(folder, [*inputs, packing.key, template], make)


@contextmanager
def _parts(packing: Packing, sources: Mapping[str, Fetched]) -> Iterator[Parts]:
    model = sources["model"].folder
    if packing.merge:
        with merged_parts(model, sources["base"].folder) as parts:
            yield parts
    else:
        with original_parts(model, writable=packing.precision is not None) as parts:
            yield parts


def _stage_merged(
    staging: Staging, name: str, tower: str, sources: Mapping[str, Fetched]
) -> Rewrites:
    """Write adapter and base as one checkpoint in the original layout."""
    folder = f"model/{name}"
    model, base = sources["model"], sources["base"]
    texts = [text for text in KEPT if text in base.origins]
    rules = model_rewrites(_only(model, ("config.json",)), folder, tower)
    rules += tuple(rule for text in texts for rule in _json_rules(base, text, folder))

    def make() -> Iterable[FileEntry]:
        target = staging.clean(folder)
        origin = derived("convert.merge", _weights((model, base)))
        with merged_parts(model.folder, base.folder) as parts:
            paths = write_shards(parts.tensors, target, progress=staging.progress)
        for path in paths:
            yield staging.written(path, origin)
        yield rewritten(staging, model, "config.json", folder, rules)
        for text in texts:
            yield rewritten(staging, base, text, folder, rules)
        yield from _tokenizer(staging, base, folder)

    inputs = [*model.digests(), *base.digests(), tower, "merged"]
    staging.group(folder, inputs, make)
    return rules


def _stage_adapter(staging: Staging, source: Fetched, name: str, tower: str, base: str) -> Rewrites:
    """Write an adapter, or a projector, that names its base and its tower beside it."""
    folder = f"model/{name}"
    texts = [text for text in ("config.json", "adapter_config.json") if text in source.origins]
    holder, pointer = ("adapter_config.json", "/base_model_name_or_path")
    if holder not in texts:
        holder, pointer = ("config.json", "/_name_or_path")
    named = _json(source, holder).get(pointer.removeprefix("/"))
    place = Rewrite(
        path=f"{folder}/{holder}",
        pointer=pointer,
        old=named if isinstance(named, str) else None,
        new=f"../{base}",
        installed=f"{MODEL_ROOT}/{base}",
    )
    others = model_rewrites(_only(source, texts), folder, tower)
    rules = (*(r for r in others if (r.path, r.pointer) != (place.path, pointer)), place)

    def make() -> Iterable[FileEntry]:
        target = staging.clean(folder)
        for weight in source.weights:
            path = target / Path(weight).with_suffix(".safetensors").name
            with opened([source.folder / weight]) as tensors:
                write_file(path, tensors, staging.progress.advance)
            yield staging.written(path, derived("convert.shards", [source.origins[weight]]))
        for text in texts:
            yield rewritten(staging, source, text, folder, rules)

    staging.group(folder, [*source.digests(), tower, base, "adapter"], make)
    return rules


def _stage_base(staging: Staging, source: Fetched, name: str) -> Rewrites:
    """Write the language model that an adapter belongs to."""
    return _stage_as_it_is(staging, source, f"model/{name}", ("config.json", *KEPT))


def _stage_converted(staging: Staging, source: Fetched, recipe: Recipe) -> Rewrites:
    folder = f"model/{recipe.model.name}"
    return _stage_as_it_is(staging, source, folder, ("config.json", *_CONVERTED))


def _stage_as_it_is(
    staging: Staging, source: Fetched, folder: str, kept: Iterable[str]
) -> Rewrites:
    """Write weights as safetensors shards and small files without what is remote."""
    texts = [text for text in kept if text in source.origins]
    rules = tuple(rule for text in texts for rule in _json_rules(source, text, folder))

    def make() -> Iterable[FileEntry]:
        target = staging.clean(folder)
        origin = derived("convert.to_safetensors", _weights((source,)))
        for path in to_safetensors(source.folder, target, progress=staging.progress):
            yield staging.written(path, origin)
        for text in texts:
            yield rewritten(staging, source, text, folder, rules)
        yield from _tokenizer(staging, source, folder)

    staging.group(folder, source.digests(), make)
    return rules


def _tokenizer(staging: Staging, source: Fetched, folder: str) -> Iterator[FileEntry]:
    if "tokenizer.json" not in source.origins and "tokenizer.model" in source.origins:
        origin = derived("convert.tokenizer_json", [source.origins["tokenizer.model"]])
        yield staging.text(f"{folder}/tokenizer.json", made_tokenizer(source), origin)


def _json_rules(source: Fetched, text: str, folder: str) -> list[Rewrite]:
    return provenance(source, text, folder) if text.endswith(".json") else []


def _weights(sources: Iterable[Fetched]) -> list[Mapping[str, Any]]:
    return [source.origins[name] for source in sources for name in source.weights]


def _json(source: Fetched, name: str) -> dict[str, Any]:
    if name not in source.origins:
        return {}
    return parse_config((source.folder / name).read_bytes(), subject=name)


def _only(source: Fetched, texts: Iterable[str]) -> Fetched:
    """Return a source as if it had these small files only."""
    kept = {name: source.origins[name] for name in (*texts, *source.weights)}
    return Fetched(folder=source.folder, pinned=source.pinned, origins=kept, weights=source.weights)
