"""Pickles that run something when Python reads them: refused, and nothing ran.

Each program is first shown to be live: Python's own unpickler, in a process of its own, runs it.
"""

import subprocess
import sys
import tracemalloc

import pytest

from llava_pack.checkpoint.pickle_file import open_pickle
from llava_pack.checkpoint.pickle_program import read_state_dict
from llava_pack.format.errors import CheckpointError
from tests.support import pickles
from tests.support.pickles import name, text

UNPICKLE = "import pickle, sys; pickle.loads(open(sys.argv[1], 'rb').read())"


def programs(mark):
    """Return pickles that each create the file `mark` when Python loads them."""
    code = f"open({mark!r}, 'w').close()"
    command = f"touch '{mark}'"
    call = b"(" + text(code) + b"tR"
    short = b"\x8c"
    return {
        "os.system": b"\x80\x02" + name("os", "system") + b"(" + text(command) + b"tR.",
        "builtins.exec": b"\x80\x02" + name("builtins", "exec") + call + b".",
        "python 2 exec": b"\x80\x02" + name("__builtin__", "exec") + call + b".",
        "builtins.eval": b"\x80\x02" + name("builtins", "eval") + call + b".",
        "stack global": (
            b"\x80\x04" + short + b"\x08builtins" + short + b"\x04exec" + b"\x93" + call + b"."
        ),
        "inst": b"(" + f"V{code}\n".encode() + b"ibuiltins\nexec\n.",
        "obj": b"(" + name("builtins", "exec") + text(code) + b"o.",
        "list argument": (
            b"\x80\x02" + name("subprocess", "call") + b"((" + text("touch") + text(mark) + b"ltR."
        ),
        "in a value": pickles.state_dict({"w": name("builtins", "exec") + call}),
        "in a key": (
            b"\x80\x02" + pickles.EMPTY_ORDERED_DICT + b"("
            + name("builtins", "exec") + call + b"Nu."
        ),
        "in the state": (
            b"\x80\x02" + pickles.EMPTY_ORDERED_DICT + name("builtins", "exec") + call + b"0."
        ),
        "text protocol": f"cbuiltins\nexec\n(V{code}\ntR.".encode(),
        "through functools": (
            b"\x80\x02" + name("functools", "partial") + b"(" + name("builtins", "exec")
            + text(code) + b"tR" + b")R."
        ),
        "runpy": (
            b"\x80\x02" + name("runpy", "run_path") + b"(" + text(_script(mark)) + b"tR."
        ),
    }  # fmt: skip


def _script(mark):
    return mark + ".script"


KINDS = list(programs("mark"))


@pytest.mark.parametrize("kind", KINDS)
def test_refused_without_running(tmp_path, kind):
    mark = tmp_path / "ran"
    (tmp_path / "ran.script").write_text(f"open({str(mark)!r}, 'w').close()")
    program = programs(str(mark))[kind]
    (tmp_path / "live.pkl").write_bytes(program)
    subprocess.run(
        [sys.executable, "-c", UNPICKLE, str(tmp_path / "live.pkl")],
        check=False,
        capture_output=True,
        timeout=300,
    )
    assert mark.exists(), "the program is not malicious at all"
    mark.unlink()

    path = pickles.save_program(tmp_path / "pytorch_model.bin", program)
    with pytest.raises(CheckpointError) as caught:
        open_pickle(path)
    assert "not allowed" in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch._utils", "_import_dotted_name"),
        ("torch.serialization", "load"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("builtins", "getattr"),
        ("collections", "defaultdict"),
        ("torch", "HalfStorage.from_file"),
        ("transformers.training_args", "TrainingArguments"),
        ("os", "HalfStorage"),
        ("builtins", "float16"),
        ("torch", "OrderedDict"),
        ("torch", "_rebuild_tensor_v2"),
    ],
)
def test_every_other_name_is_refused(module, attribute):
    with pytest.raises(CheckpointError, match="not allowed"):
        read_state_dict(b"\x80\x02" + name(module, attribute) + b".", subject="w.bin")


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"", "damaged"),
        (b"\x80\x02}", "damaged|no end"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02(.", "expected a state dict"),
        (b"\x80\x02}}.", "2 values are left"),
        (b"\x80\x02}.}.", "data after the end"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02u.", "damaged"),
        (b"\x80\x02}(K\x01u.", "damaged"),
        (b"\x80\x02}()Nu.", "damaged"),
        (b"\x80\x02}(]Nu.", "damaged"),
        (b"\x80\x02](K\x01tR.", "damaged"),
        (b"\x80\x02]K\x01b.", "not allowed"),
        (b"\x80\x02K\x01Q.", "damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged"),
        (b"\x80\x02]K\x01K\x02e.", "damaged"),
        (b"\x80\x02K\x01K\x02a.", "damaged"),
        (b"\x80\x02].", "expected a state dict"),
        (b"\x80\x02K\x05.", "holds a int"),
        (b"\x80\x02ctorch\nHalfStorage\n.", "reference to torch.HalfStorage"),
        (pickles.state_dict({"w": b"K\x01"}), "is a int, expected a tensor"),
        (pickles.state_dict({"w": b"}"}), "is a dict, expected a tensor"),
        (b"\x80\x02}(K\x01K\x02u.", "1 is a int"),
        (b"\x80\x02}(\x8b\xd0\x07\0\0" + b"\x7f" * 2000 + b"K\x02u.", "very large number is a int"),
        (b"\x80\x02}(" + text("a") + b"N" + text("a") + b"Nu.", "appears twice"),
        (
            b"\x80\x02" + name("collections", "OrderedDict") + b"(]tR.",
            "not allowed",
        ),
        (b"\x80\x02" + name("torch", "HalfStorage") + b")R.", "not allowed"),
        (b"\x80\x02" + name("torch._utils", "_rebuild_tensor_v2") + b")R.", "damaged"),
        (b"\x80\x02" + name("torch._utils", "_rebuild_parameter") + b")R.", "damaged"),
        (b"\x80\x02\x8c\x05torchK\x01\x93.", "damaged"),
        (b"\x80\x02\x94.", "damaged"),
        (b"\x80\x02(q\x00}.", "damaged"),
        (b"\x80\x02}(\x85.", "damaged"),
        (b"\x80\x02](K\x00K\x01u.", "damaged"),
    ],
)
def test_programs_that_are_no_state_dict(program, message):
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(program, subject="w.bin")


HALF = name("torch", "HalfStorage")
STORAGE = (text("storage"), HALF, text("0"), text("cpu"), pickles.number(6))
ONE = pickles.group([pickles.number(1)])


@pytest.mark.parametrize(
    "parts",
    [
        (text("module"), *STORAGE[1:]),
        STORAGE[:4],
        (*STORAGE, b"N"),
        (STORAGE[0], text("torch.HalfStorage"), *STORAGE[2:]),
        (STORAGE[0], name("torch", "float16"), *STORAGE[2:]),
        (*STORAGE[:2], pickles.number(0), *STORAGE[3:]),
        (*STORAGE[:4], b"\x88"),
        (*STORAGE[:4], text("6")),
        (*STORAGE[:4], pickles.number(-6)),
    ],
)
def test_storages_that_are_none(parts):
    store = pickles.group(parts) + b"Q"
    arguments = [store, pickles.number(0), ONE, ONE, b"\x89", b"N"]
    value = name("torch._utils", "_rebuild_tensor_v2") + pickles.group(arguments) + b"R"
    with pytest.raises(CheckpointError, match=r"damaged|invalid dimension"):
        read_state_dict(pickles.state_dict({"w": value}), subject="w.bin")


UNTYPED = pickles.group([STORAGE[0], name("torch.storage", "UntypedStorage"), *STORAGE[2:]]) + b"Q"
TYPED = pickles.group(STORAGE) + b"Q"


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("_rebuild_tensor_v2", [pickles.group(STORAGE), pickles.number(0), ONE, ONE]),
        ("_rebuild_tensor_v2", [UNTYPED, pickles.number(0), ONE, ONE]),
        ("_rebuild_tensor_v2", [TYPED, pickles.number(0), ONE]),
        ("_rebuild_tensor_v2", [TYPED, b"\x88", ONE, ONE]),
        ("_rebuild_tensor_v2", [TYPED, text("0"), ONE, ONE]),
        ("_rebuild_tensor_v3", [UNTYPED, pickles.number(0), ONE, ONE, b"N", b"N"]),
        ("_rebuild_tensor_v3", [UNTYPED, pickles.number(0), ONE, ONE, b"N", b"N", b"N"]),
        ("_rebuild_tensor_v3", [UNTYPED, pickles.number(0), ONE, ONE, b"N", b"N", HALF]),
        ("_rebuild_parameter", [TYPED]),
    ],
)
def test_tensors_that_are_none(function, arguments):
    value = name("torch._utils", function) + pickles.group(arguments) + b"R"
    with pytest.raises(CheckpointError, match="damaged"):
        read_state_dict(pickles.state_dict({"w": value}), subject="w.bin")


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02}r\xff\xff\xff\x7f.",
        b"\x80\x02" + b"(" * 200_000 + b".",
        b"\x80\x02)" + b"\x85" * 200_000 + b".",
        b"\x80\x02]" + b"2" * 10 + b".",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
    ],
    ids=["memo far away", "marks", "nested tuples", "duplicates", "huge number"],
)
def test_little_memory_whatever_the_program_asks_for(program):
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            read_state_dict(program + b"\x00", subject="w.bin")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 << 20


def test_a_shape_that_multiplies_itself_is_never_printed():
    laugh = b"(" + b"N" * 10 + b"t" + b"q\x00"
    for level in range(12):
        laugh += (
            b"(" + b"".join(b"h" + bytes([level]) for _ in range(10)) + b"tq" + bytes([level + 1])
        )
    shape = b"(" + laugh + b"t"
    arguments = [pickles.storage("F16", "0", 6), pickles.number(0), shape, b")", b"\x89", b"N"]
    program = pickles.state_dict(
        {"w": name("torch._utils", "_rebuild_tensor_v2") + pickles.group(arguments) + b"R"}
    )
    with pytest.raises(CheckpointError) as caught:
        read_state_dict(program, subject="w.bin")
    assert len(str(caught.value)) < 1000
