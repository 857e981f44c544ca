import shutil
import struct
import tracemalloc
import zipfile

import pytest

from llava_pack.checkpoint import pickle_file, pickle_program
from llava_pack.checkpoint.pickle_file import open_pickle
from llava_pack.checkpoint.tensors import TensorEntry
from llava_pack.format.errors import CheckpointError
from tests.support import pickles
from tests.support.pickles import Stored

HALVES = Stored("F16", (2, 3), struct.pack("<6e", 1, 2, 3, 4, 5, 6))


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        open_pickle(path)
    return str(caught.value)


def saved(path, value, storages=None, **options):
    program = pickles.state_dict({"w": value})
    return pickles.save_program(path, program, storages or {"0": HALVES.data}, **options)


@pytest.mark.parametrize("dtype", list(pickles.STORAGE_NAMES))
def test_every_type_comes_back_bit_for_bit(tmp_path, dtype):
    size = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}.get(dtype, 1)
    data = bytes(range(6 * size))
    path = pickles.save(tmp_path / "w.bin", {"w": Stored(dtype, (2, 3), data)})
    with open_pickle(path) as file:
        (entry,) = file.entries
        assert (entry.name, entry.dtype, entry.shape) == ("w", dtype, (2, 3))
        assert bytes(file.read(entry)) == data


def test_scalars_empty_tensors_and_order(tmp_path):
    tensors = {
        "z": Stored("F32", (), struct.pack("<f", 2.5)),
        "a": Stored("F16", (0, 4), b""),
        "m": HALVES,
    }
    with open_pickle(pickles.save(tmp_path / "w.bin", tensors)) as file:
        assert [entry.name for entry in file.entries] == ["z", "a", "m"]
        assert [bytes(file.read(entry)) for entry in file.entries] == [
            item.data for item in tensors.values()
        ]


def test_views_stay_valid_after_close_and_can_be_written_without_touching_the_file(tmp_path):
    path = pickles.save(tmp_path / "w.bin", {"w": HALVES})
    before = path.read_bytes()
    file = open_pickle(path, writable=True)
    view = file.read(file.entries[0])
    file.release(file.entries[0])
    file.close()
    view[:2] = b"\xff\xff"
    assert bytes(view[2:]) == HALVES.data[2:]
    assert path.read_bytes() == before
    with pytest.raises(CheckpointError, match="already closed"):
        file.read(file.entries[0])


def test_tensors_that_share_a_storage(tmp_path):
    values = {
        "embed": pickles.tensor("F16", "0", 6, (2, 3)),
        "head": pickles.tensor("F16", "0", 6, (2, 3)),
        "row": pickles.tensor("F16", "0", 6, (3,), offset=3),
    }
    path = pickles.save_program(tmp_path / "w.bin", pickles.state_dict(values), {"0": HALVES.data})
    with open_pickle(path) as file:
        embed, head, row = (bytes(file.read(entry)) for entry in file.entries)
    assert embed == head == HALVES.data
    assert row == HALVES.data[6:]


@pytest.mark.parametrize("dtype", ["U8", "F16", "F32", "F64"])
def test_transposed_and_sliced_tensors_are_written_row_by_row(tmp_path, dtype):
    size = {"U8": 1, "F16": 2, "F32": 4, "F64": 8}[dtype]
    cells = [bytes([number]) * size for number in range(12)]
    values = {
        "transposed": pickles.tensor(dtype, "0", 12, (4, 3), strides=(1, 4)),
        "column": pickles.tensor(dtype, "0", 12, (3,), offset=1, strides=(4,)),
        "permuted": pickles.tensor(dtype, "0", 12, (2, 2, 3), strides=(1, 6, 2)),
        "one": pickles.tensor(dtype, "0", 12, (1, 1), offset=11, strides=(7, 9)),
    }
    path = pickles.save_program(
        tmp_path / "w.bin", pickles.state_dict(values), {"0": b"".join(cells)}
    )
    expected = {
        "transposed": [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11],
        "column": [1, 5, 9],
        "permuted": [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11],
        "one": [11],
    }
    with open_pickle(path) as file:
        for entry in file.entries:
            wanted = b"".join(cells[number] for number in expected[entry.name])
            assert bytes(file.read(entry)) == wanted, entry
            file.release(entry)


def test_tensors_whose_elements_lie_over_each_other(tmp_path):
    """As after `expand`, and after a window that slides."""
    cells = [bytes([number, 0]) for number in range(6)]
    values = {
        "rows": pickles.tensor("F16", "0", 6, (4, 3), strides=(0, 1)),
        "columns": pickles.tensor("F16", "0", 6, (2, 4), strides=(3, 0)),
        "one": pickles.tensor("F16", "0", 6, (2, 2, 3), offset=5, strides=(0, 0, 0)),
        "windows": pickles.tensor("F16", "0", 6, (4, 3), strides=(1, 1)),
    }
    path = pickles.save_program(
        tmp_path / "w.bin", pickles.state_dict(values), {"0": b"".join(cells)}
    )
    expected = {
        "rows": [0, 1, 2] * 4,
        "columns": [0] * 4 + [3] * 4,
        "one": [5] * 12,
        "windows": [0, 1, 2, 1, 2, 3, 2, 3, 4, 3, 4, 5],
    }
    with open_pickle(path) as file:
        for entry in file.entries:
            wanted = b"".join(cells[number] for number in expected[entry.name])
            assert bytes(file.read(entry)) == wanted, entry


def a_tensor_of_a_tebibyte(path):
    """Four bytes, expanded."""
    value = pickles.tensor("F32", "0", 1, (10**12,), strides=(0,))
    return saved(path, value, {"0": b"\0" * 4})


def many_tensors_over_one_storage(path):
    data = bytes(1 << 20)
    value = pickles.tensor("U8", "0", len(data), (len(data),))
    program = pickles.state_dict({f"w{number}": value for number in range(200)})
    return pickles.save_program(path, program, {"0": data})


def a_pickle_that_differs_from_its_crc(path):
    path = saved(path, pickles.tensor("F16", "0", 6, (2, 3)))
    path.write_bytes(path.read_bytes().replace(b"\x01\x00\x00\x00w", b"\x01\x00\x00\x00v", 1))
    return path


def a_pickle_of_too_many_opcodes(path):
    return pickles.save_program(path, b"\x80\x02" + b"}" * 1_000_001 + b".")


BOUNDS = {
    a_tensor_of_a_tebibyte: ("claims 4000000000000 bytes, its storage has 4", "MAX_EXPANDED_BYTES"),
    many_tensors_over_one_storage: ("claim 209715200 bytes in total", "MAX_TIMES"),
    a_pickle_that_differs_from_its_crc: ("data.pkl has CRC-32", "_check_crc"),
    a_pickle_of_too_many_opcodes: ("more than 1000000 opcodes", "MAX_OPCODES"),
}


@pytest.mark.parametrize("attack", BOUNDS)
def test_what_is_out_of_bounds_is_refused(tmp_path, attack):
    assert BOUNDS[attack][0] in refusal(attack(tmp_path / "w.bin"))


@pytest.mark.parametrize("attack", BOUNDS)
def test_without_its_bound_it_is_not(tmp_path, monkeypatch, attack):
    said, check = BOUNDS[attack]
    module = pickle_program if check == "MAX_OPCODES" else pickle_file
    monkeypatch.setattr(module, check, 1 << 60 if check.isupper() else lambda *_: None)
    got = ""
    try:
        open_pickle(attack(tmp_path / "w.bin")).close()
    except CheckpointError as error:
        got = str(error)
    assert said not in got


def test_a_parameter_is_its_tensor(tmp_path):
    inner = pickles.tensor("F16", "0", 6, (2, 3))
    value = (
        pickles.name("torch._utils", "_rebuild_parameter")
        + pickles.group([inner, b"\x88", pickles.EMPTY_ORDERED_DICT])
        + b"R"
    )
    with open_pickle(saved(tmp_path / "w.bin", value)) as file:
        assert bytes(file.read(file.entries[0])) == HALVES.data


def test_a_type_named_beside_an_untyped_storage(tmp_path):
    untyped = pickles.name("torch.storage", "UntypedStorage")
    parts = [pickles.text("storage"), untyped, pickles.text("0"), pickles.text("cpu")]
    store = pickles.group([*parts, pickles.number(12)]) + b"Q"
    shape = pickles.group([pickles.number(12)])
    arguments = [
        store, pickles.number(0), shape, pickles.group([pickles.number(1)]), b"\x89",
        pickles.EMPTY_ORDERED_DICT, pickles.name("torch", "float8_e4m3fn"), b"N",
    ]  # fmt: skip
    value = pickles.name("torch._utils", "_rebuild_tensor_v3") + pickles.group(arguments) + b"R"
    with open_pickle(saved(tmp_path / "w.bin", value)) as file:
        assert file.entries[0].dtype == "F8_E4M3"
        assert bytes(file.read(file.entries[0])) == HALVES.data


def test_metadata_of_a_state_dict_is_dropped(tmp_path):
    values = pickles.text("w") + pickles.tensor("F16", "0", 6, (2, 3))
    metadata = b"}(" + pickles.text("_metadata") + pickles.EMPTY_ORDERED_DICT + b"ub"
    program = b"\x80\x02" + pickles.EMPTY_ORDERED_DICT + b"(" + values + b"u" + metadata + b"."
    path = pickles.save_program(tmp_path / "w.bin", program, {"0": HALVES.data})
    with open_pickle(path) as file:
        assert [entry.name for entry in file.entries] == ["w"]


def test_missing_and_empty_files(tmp_path):
    assert "cannot be read" in refusal(tmp_path / "none.bin")
    (tmp_path / "empty.bin").write_bytes(b"")
    assert "empty" in refusal(tmp_path / "empty.bin")


def test_a_git_lfs_pointer_says_so(tmp_path):
    path = tmp_path / "w.bin"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    assert "Git LFS pointer" in refusal(path)


def test_files_of_torch_before_1_6(tmp_path):
    legacy = tmp_path / "legacy.bin"
    legacy.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
    assert "before 1.6" in refusal(legacy)
    ancient = tmp_path / "ancient.bin"
    ancient.write_bytes(b"sys_info".ljust(257, b"\0") + b"ustar\0" + b"\0" * 1000)
    assert "before 1.6" in refusal(ancient)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = pickles.save(tmp_path / "w.bin", {"w": HALVES, "v": HALVES})
    data = whole.read_bytes()
    for size in range(1, len(data), 7):
        cut = tmp_path / "cut.bin"
        cut.write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            open_pickle(cut)


def test_bytes_before_the_archive_do_not_shift_the_tensors(tmp_path):
    path = pickles.save(tmp_path / "w.bin", {"w": HALVES})
    path.write_bytes(b"#" * 100 + path.read_bytes())
    with open_pickle(path) as file:
        assert bytes(file.read(file.entries[0])) == HALVES.data


def test_compressed_members_are_refused(tmp_path):
    path = saved(
        tmp_path / "w.bin",
        pickles.tensor("F16", "0", 6, (2, 3)),
        compression=zipfile.ZIP_DEFLATED,
    )
    assert "compressed" in refusal(path)


def test_encrypted_members_are_refused(tmp_path):
    path = pickles.save(tmp_path / "w.bin", {"w": HALVES})
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in refusal(path)


@pytest.mark.parametrize(("place", "value"), [(10, 8), (20, 11), (24, 13)])
def test_members_that_only_claim_to_be_stored(tmp_path, place, value):
    """Method, compressed size and size of the directory's first entry, one at a time."""
    path = pickles.save(tmp_path / "w.bin", {"w": HALVES})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + place] = value
    path.write_bytes(data)
    assert "compressed" in refusal(path)


def test_a_member_without_a_header_of_its_own(tmp_path):
    path = pickles.save(tmp_path / "w.bin", {"w": HALVES})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"PK\x03\x04", b"PK\x03\x05", 1))
    assert "no local header" in refusal(path)


def test_a_member_that_appears_twice(tmp_path):
    path = pickles.save(tmp_path / "w.bin", {"w": HALVES})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("w/data/0", HALVES.data)
    assert "appears twice" in refusal(path)


def test_a_member_whose_own_header_has_another_name(tmp_path):
    path = pickles.save(tmp_path / "w.bin", {"w": HALVES})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"w/data/0", b"w/data/9", 1))
    assert "in its own header" in refusal(path)


def test_members_over_each_other(tmp_path):
    path = pickles.save(tmp_path / "w.bin", {"w": HALVES, "v": HALVES})
    data = bytearray(path.read_bytes())
    first, second = data.index(b"PK\x01\x02"), None
    at = first
    offsets = {}
    while data[at : at + 4] == b"PK\x01\x02":
        name_size, extra, comment = struct.unpack_from("<3H", data, at + 28)
        name = bytes(data[at + 46 : at + 46 + name_size])
        offsets[name] = at + 42
        at += 46 + name_size + extra + comment
    second = offsets[b"w/data/1"]
    local = struct.unpack_from("<I", data, second)[0]
    struct.pack_into("<2I", data, offsets[b"w/data/0"] - 22, 12 + 60, 12 + 60)
    assert local
    path.write_bytes(data)
    assert "overlap" in refusal(path)


def test_big_endian_files_are_refused(tmp_path):
    value = pickles.tensor("F16", "0", 6, (2, 3))
    assert "byte order" in refusal(saved(tmp_path / "w.bin", value, byte_order=b"big"))


def test_scripted_programs_are_refused(tmp_path):
    value = pickles.tensor("F16", "0", 6, (2, 3))
    for extra in ("w/constants.pkl", "w/code/"):
        path = saved(tmp_path / "w.bin", value, extra={extra: b""})
        assert "TorchScript" in refusal(path)


def test_an_archive_with_a_directory_of_gigabytes(tmp_path):
    path = pickles.save(tmp_path / "w.bin", {"w": HALVES})
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    struct.pack_into("<I", data, end + 12, (4 << 20) + 1)
    struct.pack_into("<I", data, end + 16, 0)
    path.write_bytes(bytes(4 << 20) + data)
    tracemalloc.start()
    message = refusal(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "a directory of more than" in message
    assert peak_bytes < 1 << 20


def test_an_archive_without_a_state_dict(tmp_path):
    path = tmp_path / "w.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "expected one data.pkl" in refusal(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (pickles.tensor("F16", "7", 6, (2, 3)), "does not hold"),
        (pickles.tensor("F16", "0", 5, (2, 2)), "expected 10"),
        (pickles.tensor("F16", "0", 6, (2, 3), offset=1), "claims"),
        (pickles.tensor("F16", "0", 6, (3, 3)), "claims"),
        (pickles.tensor("F16", "0", 6, (2, 3), strides=(6, 1)), "claims"),
        (pickles.tensor("F16", "0", 6, (50_000_000_000,), strides=(0,)), "claims"),
        (pickles.tensor("F16", "0", 50_000_000_000, (50_000_000_000,)), "expected 100000000000"),
        (pickles.tensor("F16", "0", 6, (1 << 60,)), "invalid dimension"),
        (pickles.tensor("F16", "0", 6, (1 << 40, 1 << 40)), "more than any tensor has"),
        (pickles.tensor("F16", "0", 6, (-2, -3)), "invalid dimension"),
        (pickles.tensor("F16", "0", 6, (2, 3), strides=(-3, -1)), "invalid dimension"),
        (pickles.tensor("F16", "0", 6, (2, 3), offset=-1), "do not fit together"),
        (pickles.tensor("F16", "0", 6, (2, 3), strides=(1,)), "do not fit together"),
        (pickles.tensor("F16", "0", 6, (1,) * 17), "at most 16"),
    ],
)
def test_claims_that_the_bytes_do_not_back(tmp_path, value, text):
    path = saved(tmp_path / "w.bin", value)
    tracemalloc.start()
    message = refusal(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert text in message
    assert peak_bytes < 2 << 20


def test_a_pickle_far_larger_than_a_state_dict(tmp_path):
    program = pickles.state_dict({"w": b"B" + struct.pack("<I", 9 << 20) + bytes(9 << 20)})
    path = pickles.save_program(tmp_path / "w.bin", program)
    assert "claims" in refusal(path)


def test_zip64_archives(tmp_path):
    path = tmp_path / "w.bin"
    program = pickles.state_dict({"w": pickles.tensor("F16", "0", 6, (2, 3))})
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, data in {"w/data.pkl": program, "w/data/0": HALVES.data}.items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                member.write(data)
    with open_pickle(path) as file:
        assert bytes(file.read(file.entries[0])) == HALVES.data


def test_reading_an_entry_of_another_file_cannot_leave_this_one(tmp_path):
    path = pickles.save(tmp_path / "w.bin", {"w": HALVES})
    shutil.copy(path, tmp_path / "copy.bin")
    with open_pickle(path) as file, pytest.raises(CheckpointError, match="outside the file"):
        file.read(TensorEntry("x", "F16", (1 << 20,), 64))
