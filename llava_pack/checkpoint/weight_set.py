"""Which files of a folder hold the model's weights, by name and index; nothing is opened here.

Source: transformers utils/hub.py and modeling_utils.py (names of single files, shards and indexes,
safetensors before pickles).
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from llava_pack.checkpoint.config import parse_config
from llava_pack.checkpoint.defects import Defect, defect_of
from llava_pack.format.errors import CheckpointError

_SINGLE = (("model", ".safetensors"), ("pytorch_model", ".bin"))
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@!=-]*\.(safetensors|bin)", re.ASCII)
_AGAIN = "download the missing files, or name the Hub repository as the source"


@dataclass(frozen=True, slots=True)
class WeightSet:
    """The files that hold the weights, in order, and where an index says each tensor is."""

    files: tuple[str, ...] = ()
    index: str | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    defects: tuple[Defect, ...] = ()


def find_weights(names: Collection[str], read: Callable[[str], bytes]) -> WeightSet:
    """Return the weight files of a folder, with every defect that names and index show."""
    for stem, suffix in _SINGLE:
        index = f"{stem}{suffix}.index.json"
        if index in names:
            return _from_index(index, read(index), names)
        if f"{stem}{suffix}" in names:
            return WeightSet((f"{stem}{suffix}",))
        if shards := _shards(names, stem, suffix):
            return shards
    return WeightSet()


def _from_index(index: str, data: bytes, names: Collection[str]) -> WeightSet:
    try:
        places = _places(index, data)
    except CheckpointError as error:
        return WeightSet(index=index, defects=(defect_of(error),))
    files = tuple(sorted(set(places.values())))
    safe = [name for name in files if _FILE_NAME.fullmatch(name)]
    defects = [
        Defect("fail", index, f"names the file {name!r}, expected a plain weight file's name")
        for name in files
        if name not in safe
    ]
    defects += [
        Defect("fail", name, f"the shard is missing; {index} names it", _AGAIN)
        for name in safe
        if name not in names
    ]
    present = tuple(name for name in safe if name in names)
    return WeightSet(present, index, places, tuple(defects))


def _places(index: str, data: bytes) -> dict[str, str]:
    table = parse_config(data, subject=index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError("has no weight_map", subject=index)
    for tensor, name in table.items():
        if not isinstance(name, str):
            raise CheckpointError(f"names no file for tensor {tensor!r}", subject=index)
    return table


def _shards(names: Collection[str], stem: str, suffix: str) -> WeightSet | None:
    """Return numbered shards that came without their index."""
    pattern = re.compile(rf"{stem}-(\d{{5}})-of-(\d{{5}}){re.escape(suffix)}")
    found = {match for name in names if (match := pattern.fullmatch(name))}
    if not found:
        return None
    count = max(int(match[2]) for match in found)
    expected = [f"{stem}-{n:05d}-of-{count:05d}{suffix}" for n in range(1, count + 1)]
    defects = [
        Defect("fail", name, f"the shard is missing, expected {count} of them", _AGAIN)
        for name in expected
        if name not in names
    ]
    return WeightSet(tuple(n for n in expected if n in names), None, {}, tuple(defects))
