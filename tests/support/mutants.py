"""Weight files of torch that somebody changed: in the pickle, in the archive, or anywhere."""

import random
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from llava_pack.checkpoint.pickle_file import MAX_EXPANDED_BYTES, MAX_TIMES, open_pickle
from llava_pack.format.errors import CheckpointError
from tests.support import pickles
from tests.support.pickles import Stored

PIECES = [
    *(bytes([code]) for code in b"}]()(tu.QRbqahe0N\x88\x89\x85\x86\x87\x93\x94\x81"),
    b"\x80\x02", b"q\x00", b"h\x00", b"K\x01", b"r\xff\xff\xff\x7f",
    pickles.text("w"), pickles.text("storage"), pickles.text("0"),
    pickles.EMPTY_ORDERED_DICT, pickles.storage("F16", "0", 6),
    pickles.tensor("F16", "0", 6, (2, 3)),
    pickles.tensor("F16", "0", 6, (1000, 3), strides=(0, 1)),
    pickles.tensor("F16", "0", 6, (4, 3), strides=(1, 1)),
    pickles.tensor("F16", "0", 6, (1 << 40,), strides=(0,)),
    pickles.tensor("F16", "0", 6, (2,) * 16, strides=(0,) * 16),
    pickles.name("torch._utils", "_rebuild_tensor_v2"),
    pickles.name("torch._utils", "_rebuild_tensor_v3"),
    pickles.name("torch._utils", "_rebuild_parameter"),
    pickles.name("builtins", "eval"), pickles.name("os", "system"),
    pickles.name("torch", "HalfStorage"), pickles.text("1/0"),
    b"\x8b" + struct.pack("<i", 2000) + b"\x7f" * 2000,
]  # fmt: skip
_HALVES = Stored("F16", (2, 3), bytes(range(12)))
_PATIENCE_S = 20
_MOST_BYTES = 512 << 20
_RUNS = ("exec", "compile", "os.system", "subprocess.Popen", "pickle.find_class", "socket.connect")


def programs(chance: random.Random) -> bytes:
    """Return a pickle: of a state dict, with pieces put in, taken out or changed; or of pieces."""
    if chance.random() < 0.3:
        return b"".join(chance.choices(PIECES, k=chance.randrange(1, 30))) + b"."
    values = {"w": pickles.tensor("F16", "0", 6, (2, 3)), "v": pickles.tensor("F16", "1", 6, (6,))}
    data = bytearray(pickles.state_dict(values))
    for _ in range(chance.randrange(1, 4)):
        at, kind = chance.randrange(len(data)), chance.random()
        if kind < 0.5:
            data[at] = chance.choice([0, 1, 255, chance.randrange(256)])
        elif kind < 0.7:
            data[at:at] = chance.choice(PIECES)
        elif kind < 0.85:
            del data[at : at + chance.randrange(1, 12)]
        else:
            start = chance.randrange(len(data))
            data[at:at] = data[start : start + chance.randrange(1, 60)]
    return bytes(data)


def mutant(path: Path, chance: random.Random) -> str:
    """Write a changed weight file, and return in which way it was changed."""
    kind = chance.choice(["program", "program", "bytes", "directory", "cut"])
    if kind == "program":  # whoever changes a pickle writes its CRC too
        pickles.save_program(path, programs(chance), {"0": _HALVES.data, "1": _HALVES.data})
        return kind
    pickles.save(path, {"w": _HALVES, "v": _HALVES})
    data = bytearray(path.read_bytes())
    if kind == "cut":
        del data[chance.randrange(1, len(data)) :]
    begin = data.find(b"PK\x01\x02") if kind == "directory" else 0
    for _ in range(chance.randrange(1, 5) if kind != "cut" else 0):
        data[chance.randrange(begin, len(data))] = chance.choice([0, 255, chance.randrange(256)])
    path.write_bytes(data)
    return kind


class Watch:
    """Hears, for as long as this process lives, what is run while a file is being opened."""

    def __init__(self) -> None:
        self.on = False
        self.heard: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, _arguments: tuple[Any, ...]) -> None:
        if self.on and event in _RUNS:
            self.heard.append(event)


def mutants(path: Path, chance: random.Random, tries: int) -> Iterator[str]:
    """Open and read one changed weight file after the other.

    Yields:
        What went wrong, or nothing: something ran, hung, grew, raised another error than ours, or
        gave other bytes than it said.
    """
    watch = Watch()
    pickles.save(path, {"w": _HALVES})
    _read(path)  # what is imported at first use
    signal.signal(signal.SIGALRM, _too_long)
    for number in range(tries):
        kind, before = mutant(path, chance), _peak_bytes()
        signal.alarm(_PATIENCE_S)
        watch.on, watch.heard = True, []
        said = _outcome(path)
        watch.on = False
        signal.alarm(0)
        said = said or (f"ran {watch.heard}" if watch.heard else "")
        grown = _peak_bytes() - before
        said = said or (f"took {grown} bytes" if grown > _MOST_BYTES else "")
        yield f"try {number}, {kind}: {said}" if said else ""


def _outcome(path: Path) -> str:
    try:
        return _read(path)
    except CheckpointError:
        return ""
    except Exception as error:  # noqa: BLE001 - any other error is what is looked for
        return f"{type(error).__name__}: {error}"


def _read(path: Path) -> str:
    with open_pickle(path) as file:
        if sum(e.size_bytes for e in file.entries) > (
            MAX_EXPANDED_BYTES + MAX_TIMES * path.stat().st_size
        ):
            return "claims more than it may"
        for entry in file.entries:
            file.verify(entry)
            if len(file.read(entry)) != entry.size_bytes:
                return f"{entry.name}: {entry.size_bytes} bytes were said"
    return ""


def _too_long(_number: int, _frame: FrameType | None) -> NoReturn:
    raise TimeoutError(f"more than {_PATIENCE_S} s")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
