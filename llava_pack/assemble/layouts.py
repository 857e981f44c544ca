"""The model folders of a bundle, in the layout that was chosen: a table, a row for each folder."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from llava_pack.assemble.chat_template import chat_template, jinja
from llava_pack.assemble.model_files import (
    Link,
    ModelFolder,
    Origin,
    Weights,
    read_json,
    stage_folder,
)
from llava_pack.assemble.packing import Packing
from llava_pack.assemble.sources import Fetched
from llava_pack.assemble.staging import Staging
from llava_pack.checkpoint.config import vision_tower_id, vision_tower_pointer
from llava_pack.checkpoint.internvl import internvl
from llava_pack.checkpoint.kind import Kind, backbone, classify
from llava_pack.checkpoint.token_files import named_specials
from llava_pack.convert.internvl import PICTURE, to_internvl
from llava_pack.convert.merge import merged_parts
from llava_pack.convert.native import to_native, to_native_texts
from llava_pack.convert.native_config import PICTURE_ENDS
from llava_pack.convert.native_tokenizer import is_legacy
from llava_pack.convert.parts import Parts, original_parts
from llava_pack.convert.quantize import quantize
from llava_pack.convert.shards import opened, to_safetensors, write_file, write_shards
from llava_pack.convert.tower import slim_tower
from llava_pack.format.errors import CheckpointError
from llava_pack.format.manifest import Rewrite
from llava_pack.format.progress import Progress
from llava_pack.recipe import Recipe

_CONFIG, _ADAPTER = "config.json", "adapter_config.json"
_LANGUAGE = (
    "generation_config.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
)
_PICTURES = "preprocessor_config.json"
_CONVERTED = (
    _PICTURES,
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.jinja",
    "chat_template.json",
)

Sources = Mapping[str, Fetched]


def stage_packing(
    staging: Staging, packing: Packing, recipe: Recipe, sources: Sources
) -> tuple[Rewrite, ...]:
    """Write the model's folders, and return what was rewritten in them.

    Raises:
        CheckpointError: the checkpoint is damaged, or names no tower.
        PackError: see `convert`.
    """
    inputs = [digest for source in sources.values() for digest in source.digests()]
    inputs += [part.name for part in recipe.parts().values()]
    inputs += [packing.key, recipe.model.conv_mode]
    folders = _folders(packing, recipe, sources, staging.progress)
    return tuple(rule for one in folders for rule in stage_folder(staging, one, inputs))


def _folders(
    packing: Packing, recipe: Recipe, sources: Sources, progress: Progress
) -> Iterator[ModelFolder]:
    """Yield a row for each folder: its weights, its texts, and what they point to."""
    names = {part: one.name for part, one in recipe.parts().items()}
    model, name = sources["model"], names["model"]
    if packing.converted:
        yield from _converted(names, packing, sources, progress)
        return
    if packing.format == "hf":
        yield _native(name, packing, recipe, sources, progress)
        return
    tower, base = sources["vision_tower"], sources.get("base")
    to_tower = _tower_link(model, names["vision_tower"])
    if base is None:
        yield _copied(name, model, (_CONFIG, *_LANGUAGE), progress, to_tower)
    elif packing.merge:
        yield ModelFolder(
            name=name,
            tool="convert.merge",
            weights=_made(partial(_merge, model, base, progress), model, base),
            texts=_of(model, (_CONFIG,)) | _of(base, _LANGUAGE),
            links=(to_tower,),
        )
    else:
        yield ModelFolder(
            name=name,
            tool="convert.shards",
            weights=partial(_one_by_one, model, progress),
            texts=_of(model, (_CONFIG, _ADAPTER)),
            links=(to_tower, _base_link(model, names["base"])),
        )
        links = _base_tower_links(base, names["vision_tower"])
        yield _copied(names["base"], base, (_CONFIG, *_LANGUAGE), progress, *links)
    yield ModelFolder(
        name=names["vision_tower"],
        tool="convert.slim_tower",
        weights=_made(partial(slim_tower, tower.folder, progress=progress), tower),
        texts=_of(tower, (_CONFIG, _PICTURES)),
    )
    if packing.tokenizer is not None:
        yield _tokenizer(packing.tokenizer, packing, recipe, sources)


def _converted(
    names: Mapping[str, str], packing: Packing, sources: Sources, progress: Progress
) -> Iterator[ModelFolder]:
    """Yield the folder of a converted model; of an adapter its base's too, or both as one.

    The base's configuration and tokenizer stay as they are.
    """
    model, base, whole = sources["model"], sources.get("base"), (_CONFIG, *_LANGUAGE, *_CONVERTED)
    if classify(model.origins, read_json(model, _CONFIG)) is Kind.INTERNVL:
        yield _internvl(names["model"], model, progress)
    elif base is None:
        yield _copied(names["model"], model, whole, progress)
    elif packing.merge:
        yield ModelFolder(
            name=names["model"],
            tool="convert.merge",
            weights=_made(partial(_merge, model, base, progress), model, base),
            texts=_of(base, whole),
        )
    else:
        yield ModelFolder(
            name=names["model"],
            tool="convert.shards",
            weights=partial(_one_by_one, model, progress),
            texts=_of(model, (_ADAPTER,)),
            links=(_base_link(model, names["base"]),),
        )
        yield _copied(names["base"], base, whole, progress)


def _internvl(name: str, source: Fetched, progress: Progress) -> ModelFolder:
    """Return the folder of an InternVL that is written as transformers' own class reads it."""
    template = jinja(internvl(read_json(source, _CONFIG)).template, picture=PICTURE)
    write = partial(to_internvl, source.folder, chat_template=template, progress=progress)
    weights = _made(write, source)
    return ModelFolder(name=name, tool="convert.to_internvl", weights=weights, texts={})


def _copied(
    name: str, source: Fetched, texts: Iterable[str], progress: Progress, *links: Link
) -> ModelFolder:
    """Return a folder whose tensors stay as they are."""
    return ModelFolder(
        name=name,
        tool="convert.to_safetensors",
        weights=_made(
            partial(to_safetensors, source.folder, progress=progress, left_out=source.left_out),
            source,
        ),
        texts=_of(source, texts),
        links=links,
    )


def _native(
    name: str, packing: Packing, recipe: Recipe, sources: Sources, progress: Progress
) -> ModelFolder:
    """Return the one folder of the transformers-native layout."""
    template = _template(packing, recipe, sources)
    write = partial(to_native, chat_template=template, progress=progress)
    tool = "convert.to_native"
    if packing.precision is not None:
        tool = f"convert.quantize {packing.precision}"
        write = partial(
            quantize, precision=packing.precision, chat_template=template, progress=progress
        )

    def converted(target: Path) -> list[Path]:
        with _parts(packing, sources) as parts:
            return write(parts, sources["vision_tower"].folder, target)

    weights = _made(converted, *sources.values())
    return ModelFolder(name=name, tool=tool, weights=weights, texts={})


def _tokenizer(name: str, packing: Packing, recipe: Recipe, sources: Sources) -> ModelFolder:
    """Return the folder with tokenizer and processor of the transformers-native layout."""
    template = _template(packing, recipe, sources)

    def made(target: Path) -> list[Path]:
        with _parts(packing, sources) as parts:
            tower = sources["vision_tower"].folder
            return to_native_texts(parts, tower, target, chat_template=template)

    weights = _made(made, *sources.values())
    return ModelFolder(name=name, tool="convert.to_native_texts", weights=weights, texts={})


def _template(packing: Packing, recipe: Recipe, sources: Sources) -> str:
    """Return the chat template of a model that is converted."""
    texts = sources["base" if packing.merge else "model"]
    language = backbone(read_json(texts, _CONFIG))
    return chat_template(
        recipe.model.conv_mode,
        legacy=is_legacy(read_json(texts, "tokenizer_config.json"), language),
        picture_ends=bool(read_json(sources["model"], _CONFIG).get(PICTURE_ENDS, False)),
        named=named_specials(texts.folder),
    )


def _parts(packing: Packing, sources: Sources) -> AbstractContextManager[Parts]:
    model = sources["model"].folder
    if packing.merge:
        return merged_parts(model, sources["base"].folder)
    return original_parts(model, writable=packing.precision is not None)


def _merge(model: Fetched, base: Fetched, progress: Progress, target: Path) -> list[Path]:
    with merged_parts(model.folder, base.folder) as parts:
        return write_shards(parts.tensors, target, progress=progress)


def _one_by_one(
    source: Fetched, progress: Progress, target: Path
) -> Iterator[tuple[Path, list[Origin]]]:
    """Write each weight file by itself, as loaders of adapters look for them by name."""
    for weight in source.weights:
        path = target / Path(weight).with_suffix(".safetensors").name
        with opened([source.folder / weight]) as tensors:
            write_file(path, tensors, progress.advance)
        yield path, [source.origins[weight]]


def _made(write: Callable[[Path], Iterable[Path]], *sources: Fetched) -> Weights:
    """Return weights each file of which is made from all of the sources' weights."""
    origins = [source.origins[name] for source in sources for name in source.weights]
    return lambda target: ((path, origins) for path in write(target))


def _of(source: Fetched, texts: Iterable[str]) -> dict[str, Fetched]:
    return {text: source for text in texts if text in source.origins}


def _tower_link(model: Fetched, tower: str) -> Link:
    """Return what a checkpoint says of its tower.

    Raises:
        CheckpointError: config.json names no tower.
    """
    config = read_json(model, _CONFIG)
    pointer = vision_tower_pointer(config)
    if pointer is None:
        raise CheckpointError(
            "names no vision tower, expected mm_vision_tower",
            subject=_CONFIG,
            hint="the recipe expects a LLaVA checkpoint in its original format",
        )
    return Link(text=_CONFIG, pointer=pointer, old=vision_tower_id(config), folder=tower)


def _base_tower_links(base: Fetched, tower: str) -> tuple[Link, ...]:
    """Return what a base says of its tower: a LLaVA names one, a language model does not."""
    named = vision_tower_pointer(read_json(base, _CONFIG)) is not None
    return (_tower_link(base, tower),) if named else ()


def _base_link(model: Fetched, base: str) -> Link:
    """Return what an adapter, or a projector, says of its base."""
    text, key = _ADAPTER, "base_model_name_or_path"
    if text not in model.origins:
        text, key = _CONFIG, "_name_or_path"
    named = read_json(model, text).get(key)
    old = named if isinstance(named, str) else None
    return Link(text=text, pointer=f"/{key}", old=old, folder=base)
