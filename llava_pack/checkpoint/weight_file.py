"""Weight files of either kind, opened by what their name says they are."""

from collections.abc import Callable
from pathlib import Path

from llava_pack.checkpoint.defects import Defect, defect_of
from llava_pack.checkpoint.findings import listed
from llava_pack.checkpoint.pickle_file import open_pickle, pickle_header
from llava_pack.checkpoint.pieces import Bytes, Viewed
from llava_pack.checkpoint.safetensors_file import SafetensorsFile, parse_header
from llava_pack.checkpoint.stored_archive import END_BYTES
from llava_pack.checkpoint.tensors import TensorEntry, TensorFile
from llava_pack.checkpoint.weight_set import WeightSet
from llava_pack.format.errors import CheckpointError

_HEAD_BYTES = 1 << 18
"""Headers of most weight files are shorter."""
Held = dict[str, dict[str, TensorEntry]]
"""Tensors by name, by the file that holds them."""
Look = Callable[[tuple[str, ...]], tuple[Held, list[Defect]]]
"""Gives the tensors of weight files, as far as they are known, and what is wrong with the files."""


def open_weights(path: Path, *, writable: bool = False) -> TensorFile:
    """Open a `.safetensors`, or a published pickle through the restricted reader.

    Args:
        path: the file.
        writable: hand out views that may be written to, which torch prefers; the file never
            changes.

    Raises:
        CheckpointError: the file is damaged or of another kind.
    """
    if path.suffix == ".safetensors":
        return SafetensorsFile(path, writable=writable)
    return open_pickle(path, writable=writable)


def header_entries(file: Bytes, name: str) -> tuple[TensorEntry, ...]:
    """Return the tensors of a weight file by its header: of a pickle, without their places.

    Args:
        file: perhaps not all of it.
        name: what it is called, and by that what it is.

    Raises:
        CheckpointError: it is damaged or of another kind.
        AbsentError: bytes of the header are not here.
    """
    if name.endswith(".safetensors"):
        stream = Viewed(file, file.size_bytes)
        return parse_header(stream, file.size_bytes, subject=name).entries
    return pickle_header(file, subject=name)


def first_spans(name: str, size_bytes: int) -> list[tuple[int, int]]:
    """Return where the header of a weight file is looked for first: (start, end) of pieces.

    Safetensors begin with it. A pickle begins with it too, and ends with what tells where it is.
    """
    if not size_bytes:
        return []
    head, tail = (0, min(_HEAD_BYTES, size_bytes)), (max(size_bytes - END_BYTES, 0), size_bytes)
    return [head] if name.endswith(".safetensors") or head[1] == size_bytes else [head, tail]


def known_tensors(
    weights: WeightSet, held: Held, files: tuple[str, ...]
) -> tuple[dict[str, TensorEntry], frozenset[str]]:
    """Return the tensors, and the names of those of which an index tells the name alone."""
    entries = {name: entry for tensors in held.values() for name, entry in tensors.items()}
    if len(held) == len(files):
        return entries, frozenset()
    unseen = {name for name, place in weights.places.items() if place not in held}
    return {**{n: TensorEntry(n, "F16", ()) for n in unseen}, **entries}, frozenset(unseen)


def held_tensors(folder: Path, files: tuple[str, ...]) -> tuple[Held, list[Defect]]:
    """Return the tensors of each weight file that can be opened, and what is wrong with others."""
    held: Held = {}
    defects: list[Defect] = []
    for name in files:
        try:
            file = open_weights(folder / name)
        except CheckpointError as error:
            defects.append(defect_of(error))
            continue
        held[name] = {entry.name: entry for entry in file.entries}
        file.close()
    return held, defects


def repeated_tensors(held: Held) -> list[Defect]:
    """Return the tensors that more than one file holds."""
    defects: list[Defect] = []
    where: dict[str, str] = {}
    for name, tensors in held.items():
        twice = sorted(where.keys() & tensors.keys())
        if twice:
            text = f"holds {listed(twice)}, which {where[twice[0]]} holds too"
            defects.append(Defect("fail", name, text))
        where |= dict.fromkeys(tensors, name)
    return defects
