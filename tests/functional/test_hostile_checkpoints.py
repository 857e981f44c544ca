"""Checkpoints made to do harm: `inspect` tells them with exit 13, at once and in little memory.

Each runs in a process whose own memory is limited to half a gigabyte; what a file only claims, or
holds as a hole, must never be taken.
"""

import json
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import pickles
from tests.support.checkpoints import TinyLlava, make_llava
from tests.support.pickles import name, text

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
MEMORY_BYTES = 512 << 20
HUGE = 100_000_000_000
SAFE = TinyLlava(weights="safetensors", shards=1)


def climbing_index(folder: Path, mark: Path) -> str:
    make_llava(folder, TinyLlava(weights="safetensors", shards=2))
    index = folder / "model.safetensors.index.json"
    table = json.loads(index.read_bytes())
    table["weight_map"] |= {"a": "../../etc/passwd", "b": "/etc/passwd", "c": "..\\x.bin"}
    index.write_text(json.dumps(table))
    return "names the file '../../etc/passwd', expected a plain weight file's name"


def header(folder: Path, length: int, body: bytes, size_bytes: int = 0) -> None:
    make_llava(folder, SAFE)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", length) + body)
        file.truncate(max(file.tell(), size_bytes))


def header_of_100_gb(folder: Path, mark: Path) -> str:
    header(folder, HUGE, b"{", 2 * HUGE)
    return f"its header claims {HUGE} bytes"


def tensor_of_100_gb_that_is_not_there(folder: Path, mark: Path) -> str:
    entry = {"dtype": "U8", "shape": [HUGE], "data_offsets": [0, HUGE]}
    body = json.dumps({"model.norm.weight": entry}).encode()
    header(folder, len(body), body)
    return "its header promises"


def tensor_of_100_gb_that_is_a_hole(folder: Path, mark: Path) -> str:
    entry = {"dtype": "U8", "shape": [HUGE], "data_offsets": [0, HUGE]}
    body = json.dumps({"model.norm.weight": entry}).encode()
    header(folder, len(body), body, 8 + len(body) + HUGE)
    return "model.norm.weight: has shape (100000000000,)"


def truncated_header(folder: Path, mark: Path) -> str:
    header(folder, 500, b'{"model.norm.weight":{"dtype"')
    return "its header claims 500 bytes"


def deep_header(folder: Path, mark: Path) -> str:
    body = b'{"a":' + b"[" * 1_000_000
    header(folder, len(body), body)
    return "its header is not valid JSON"


def pickle(folder: Path, program: bytes) -> None:
    make_llava(folder, TinyLlava(shards=1))
    pickles.save_program(folder / "pytorch_model.bin", program)


def program_that_runs(folder: Path, mark: Path) -> str:
    call = name("os", "system") + b"(" + text(f"touch '{mark}'") + b"tR"
    pickle(folder, pickles.state_dict({"model.norm.weight": call}))
    return "os.system is not allowed in a weight file; nothing of it was executed"


def program_that_imports_torch(folder: Path, mark: Path) -> str:
    call = name("torch.hub", "load") + b"(" + text(str(mark.parent)) + text("x") + b"tR"
    pickle(folder, pickles.state_dict({"model.norm.weight": call}))
    return "torch.hub.load is not allowed in a weight file"


def storage_of_100_gb(folder: Path, mark: Path) -> str:
    pickle(folder, pickles.state_dict({"w": pickles.tensor("F16", "0", HUGE, (HUGE,))}))
    return "which the archive does not hold"


def number_of_a_million_digits(folder: Path, mark: Path) -> str:
    digits = b"\x8b" + struct.pack("<I", 400_000) + b"\x7f" * 400_000
    pickle(folder, b"\x80\x02" + pickles.EMPTY_ORDERED_DICT + b"(" + text("w") + digits + b"u.")
    return "expected a tensor"


def values_that_double(folder: Path, mark: Path) -> str:
    doubled = b")" + b"".join(b"q\x00h\x00\x86" for _ in range(100))
    pickle(folder, b"\x80\x02" + pickles.EMPTY_ORDERED_DICT + b"(" + text("w") + doubled + b"u.")
    return "is a tuple, expected a tensor"


def code_of_its_own(folder: Path, mark: Path) -> str:
    make_llava(folder, TinyLlava(changes={"auto_map": {"AutoModel": "modeling_x.X"}}))
    (folder / "modeling_x.py").write_text(f"open({str(mark)!r}, 'w')")
    return "auto_map names code that would run"


def code_named_further_inside(folder: Path, mark: Path) -> str:
    inner = {"text_config": {"auto_map": {"AutoModel": "someone/else--modeling_x.X"}}}
    make_llava(folder, TinyLlava(changes=inner))
    return "auto_map names code that would run"


def a_library(folder: Path, mark: Path) -> str:
    make_llava(folder)
    (folder / "helper.so").write_bytes(b"\x7fELF")
    return "code in a checkpoint is refused"


def a_config_of_brackets(folder: Path, mark: Path) -> str:
    make_llava(folder)
    (folder / "config.json").write_text("[" * 1_000_000)
    return "config.json: not valid JSON"


CASES: list[Callable[[Path, Path], str]] = [
    climbing_index,
    header_of_100_gb,
    tensor_of_100_gb_that_is_not_there,
    tensor_of_100_gb_that_is_a_hole,
    truncated_header,
    deep_header,
    program_that_runs,
    program_that_imports_torch,
    storage_of_100_gb,
    number_of_a_million_digits,
    values_that_double,
    code_of_its_own,
    code_named_further_inside,
    a_library,
    a_config_of_brackets,
]


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))


@pytest.mark.parametrize("make", CASES, ids=lambda case: case.__name__)
def test_refused_at_once(make, tmp_path):
    folder, mark = tmp_path / "llava-v1.5-tiny", tmp_path / "mark"
    expected = make(folder, mark)
    done = subprocess.run(
        [sys.executable, "-m", "llava_pack", "inspect", str(folder)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=limited,
    )
    assert done.returncode == 13, done.stdout + done.stderr
    assert expected in done.stdout
    assert not mark.exists()
    assert max(map(len, done.stdout.splitlines())) < 400
