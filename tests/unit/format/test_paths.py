import pytest

from llava_pack.format.errors import IntegrityError
from llava_pack.format.paths import bundle_path, check_unique, clashes, safe_component


@pytest.mark.parametrize(
    "path",
    [
        "MANIFEST.json",
        "model/llava-v1.5-7b/model-00001-of-00004.safetensors",
        "wheels/torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        "installer/llava_pack/__init__.py",
    ],
)
def test_ordinary_names_pass(path):
    assert bundle_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "", "/etc/passwd", "a/../b", "..", ".", "a//b", "a/", ".hidden", "a/.hidden", "-rf", "a/-x",
        "a b", "a\\b", "a:b", "C:\\x", "a\nb", "a\x1b[31m", "ünder", "a*", "~x", "a\u202eb", "\ud800",
        "con", "NUL.txt", "a/Aux.json", "com1", "LPT9.bin", "a.", "a./b", "x" * 201, "y/" * 100 + "z",
    ],
)  # fmt: skip
def test_names_that_climb_hide_or_break_a_filesystem_are_refused(path):
    with pytest.raises(IntegrityError):
        bundle_path(path)


def test_a_component_holds_no_slash():
    assert safe_component("llava-v1.5-7b") == "llava-v1.5-7b"
    with pytest.raises(IntegrityError):
        safe_component("a/b")


def test_every_clash_is_named():
    found = clashes(["model/A/x", "model/a/y", "Readme", "README", "model"])
    assert len(found) == 3
    with pytest.raises(IntegrityError, match=r"README.*model"):
        check_unique(["Readme", "README", "model/A/x", "model"])
    check_unique(["a/b", "a/c", "b"])
