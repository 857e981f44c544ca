"""What can be wrong with a checkpoint: each function looks at one thing and returns what it found.

Pure: names, configurations and tensor records go in, defects come out.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from llava_pack.checkpoint.config import vision_part, vision_tower_id
from llava_pack.checkpoint.defects import Defect, shown
from llava_pack.checkpoint.keymap import is_weight
from llava_pack.checkpoint.kind import ADAPTERS, STORED, WHOLE, Kind
from llava_pack.checkpoint.network import NAMED_TOWER
from llava_pack.checkpoint.servable import engine_defects

SHOWN = 3
_SIDE = re.compile(r"-(\d{3})$")
_CODE = {
    **dict.fromkeys(("pyc", "pyw"), "Python"),
    **dict.fromkeys(("so", "pyd", "dll", "dylib"), "compiled"),
}
_ORIGINALS = {
    "llava-1.5-7b-hf": "liuhaotian/llava-v1.5-7b",
    "llava-1.5-13b-hf": "liuhaotian/llava-v1.5-13b",
    "llava-v1.6-vicuna-7b-hf": "liuhaotian/llava-v1.6-vicuna-7b",
    "llava-v1.6-vicuna-13b-hf": "liuhaotian/llava-v1.6-vicuna-13b",
    "llava-v1.6-mistral-7b-hf": "liuhaotian/llava-v1.6-mistral-7b",
    "llava-v1.6-34b-hf": "liuhaotian/llava-v1.6-34b",
    "llama3-llava-next-8b-hf": "lmms-lab/llama3-llava-next-8b",
    "llava-onevision-qwen2-0.5b-ov-hf": "lmms-lab/llava-onevision-qwen2-0.5b-ov",
    "llava-onevision-qwen2-7b-ov-hf": "lmms-lab/llava-onevision-qwen2-7b-ov",
}


def kind_defects(name: str, kind: Kind, expected: Kind | None) -> list[Defect]:
    """Return what stands between the kind that was meant and the one that is here."""
    if kind is Kind.UNKNOWN:
        return [
            Defect("fail", name, "neither config.json nor the tensors are those of a LLaVA model")
        ]
    if expected is None or kind is expected:
        return []
    hint = ""
    if kind in STORED:
        hint = "set format = 'hf' in the recipe, which packs it for a runtime that serves it"
    elif kind is Kind.CONVERTED and expected is Kind.ORIGINAL:
        named = _ORIGINALS.get(name, "the original, for example liuhaotian/llava-v1.5-7b")
        hint = f"use {named} instead, or set format = 'hf' in the recipe"
    elif kind is Kind.CONVERTED and expected is Kind.LANGUAGE:
        hint = "if the adapter was trained on it, set format = 'hf' in the recipe"
    elif kind is Kind.ORIGINAL and expected is Kind.CONVERTED:
        hint = "set format = 'original' in the recipe"
    return [
        Defect("fail", name, f"this is a {kind.description}, expected {expected.description}", hint)
    ]


def code_defects(
    names: Iterable[str], configs: Mapping[str, Mapping[str, Any]], kind: Kind = Kind.UNKNOWN
) -> list[Defect]:
    """Return every file that is code, and every value that would make a loader run it.

    A script that nothing names lies beside many a fine-tune; what is compiled lies beside none.
    InternVL's authors name theirs; the files that name it are written anew, without.
    """
    hint = "llava-pack does not run code from a checkpoint; use one that needs none"
    suffixes = {name: name.lower().rpartition(".")[2] for name in sorted(names)}
    defects = [
        Defect("fail", name, f"{_CODE[suffix]} code in a checkpoint is refused", hint)
        for name, suffix in suffixes.items()
        if suffix in _CODE
    ]
    scripts = [name for name, suffix in suffixes.items() if suffix == "py"]
    if scripts:
        defects.append(Defect("warn", listed(scripts), "not run: no loader needs a script"))
    if kind is Kind.INTERNVL:
        return defects
    defects += [
        Defect("fail", name, f"auto_map names code that would run: {_code(auto_map)}", hint)
        for name, config in configs.items()
        for auto_map in _auto_maps(config)
    ]
    return defects


def _auto_maps(value: Any) -> Iterator[object]:
    """Yield what is told under `auto_map`, however deep; a parsed file has no endless depth."""
    inner = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping) and value.get("auto_map"):
        yield value["auto_map"]
    elif isinstance(value, (Mapping, list)):
        for one in inner:
            yield from _auto_maps(one)


def _code(auto_map: object) -> str:
    return listed(sorted(auto_map)) if isinstance(auto_map, dict) else shown(auto_map)


def file_defects(names: Collection[str], kind: Kind) -> list[Defect]:
    """Return small files that a checkpoint of this kind cannot do without.

    Source: haotian-liu/LLaVA llava/model/builder.py (what is absent is looked for on the Hub).
    """
    groups: list[tuple[str, ...]] = []
    if kind in {Kind.ORIGINAL, Kind.LANGUAGE, *WHOLE}:
        groups.append(("tokenizer.json", "tokenizer.model", "vocab.json"))
    if kind is Kind.TOWER:
        groups.append(("preprocessor_config.json", "processor_config.json"))
    if kind is Kind.NATIVE:
        groups.append(("preprocessor_config.json", "processor_config.json"))
    if kind is Kind.LORA:
        groups += [("adapter_config.json",), ADAPTERS]
    return [
        Defect("fail", group[0], f"is missing{_and_so(group[1:])}")
        for group in groups
        if not set(group) & set(names)
    ]


def _and_so(others: tuple[str, ...]) -> str:
    be = "are" if others[1:] else "is"
    return f", and so {be} {' and '.join(others)}" if others else ""


def vocabulary_defects(pieces: int, config: Mapping[str, Any]) -> list[Defect]:
    """Return a defect where the tokenizer has more words than the model has rows."""
    rows = config.get("vocab_size")
    if type(rows) is not int or pieces <= rows:
        return []
    return [
        Defect(
            "fail",
            "tokenizer.model",
            f"has {pieces} pieces, vocab_size of config.json is {rows}",
            "use the tokenizer and the weights of the same repository",
        )
    ]


def index_defects(
    index: str, places: Mapping[str, str], held: Mapping[str, Collection[str]]
) -> list[Defect]:
    """Return where an index and its shards disagree.

    Args:
        index: the index's file name.
        places: tensor name to file name, as the index says.
        held: file name to the names that the file holds; files that could not be read are left out.
    """
    defects: list[Defect] = []
    for name, tensors in held.items():
        promised = {tensor for tensor, place in places.items() if place == name}
        absent = sorted(promised - set(tensors))
        if absent:
            defects.append(
                Defect("fail", index, f"places {listed(absent)} in {name}, which lacks them")
            )
        strangers = sorted(filter(is_weight, set(tensors) - promised))
        if strangers:
            defects.append(Defect("warn", index, f"does not name {listed(strangers)} of {name}"))
    return defects


def pair_defects(
    config: Mapping[str, Any], tower_config: Mapping[str, Any], preprocessor: Mapping[str, Any]
) -> list[Defect]:
    """Return where a tower is not the one that a checkpoint was trained with, or cannot be.

    Args:
        config: the checkpoint's, in the original keys.
        tower_config: the tower's.
        preprocessor: how the tower wants pictures.
    """
    return [
        *side_defects(config, tower_config),
        *engine_defects(config, tower_config, preprocessor),
    ]


def side_defects(config: Mapping[str, Any], tower_config: Mapping[str, Any]) -> list[Defect]:
    """Return whether a tower is for other pictures than the one that a checkpoint names."""
    side = vision_part(tower_config).get("image_size")
    named = _SIDE.search(vision_tower_id(config) or "")
    if named and type(side) is int and int(named[1]) != side:
        text = f"mm_vision_tower is for pictures of {named[1]} pixels, the tower takes {side}"
        return [Defect("fail", "config.json", text, NAMED_TOWER)]
    return []


def listed(names: Collection[str]) -> str:
    """Return the first few names, and how many more there are."""
    shown = ", ".join(list(names)[:SHOWN])
    more = len(names) - SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
