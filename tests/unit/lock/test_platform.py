import pytest
from packaging.tags import parse_tag

from llava_pack.format.errors import UsageError
from llava_pack.lock.platform import parse_platform


def tag(text):
    return next(iter(parse_tag(text)))


@pytest.mark.parametrize(
    ("wheel_tag", "fits"),
    [
        ("cp311-cp311-manylinux_2_28_x86_64", True),
        ("cp310-abi3-manylinux2014_x86_64", True),
        ("py3-none-any", True),
        ("py3-none-manylinux1_x86_64", True),
        ("cp311-cp311-manylinux_2_36_x86_64", False),
        ("cp312-cp312-manylinux_2_28_x86_64", False),
        ("cp311-cp311-manylinux_2_28_aarch64", False),
        ("cp311-cp311-macosx_11_0_arm64", False),
        ("cp311-cp311-musllinux_1_2_x86_64", False),
    ],
)
def test_a_target_accepts_its_own_wheels_only(wheel_tag, fits):
    assert (tag(wheel_tag) in parse_platform("x86_64-manylinux_2_35", "3.11").tags()) is fits


def test_newer_glibc_tags_come_before_older_ones():
    tags = parse_platform("aarch64-manylinux_2_31", "3.12").tags()
    newer = tags.index(tag("cp312-cp312-manylinux_2_28_aarch64"))
    assert newer < tags.index(tag("cp312-cp312-manylinux2014_aarch64"))


@pytest.mark.parametrize(
    "text", ["linux", "x86_64", "sparc-manylinux_2_28", "x86_64-manylinux_3_1"]
)
def test_another_form_of_platform_is_refused(text):
    with pytest.raises(UsageError, match="ARCH-manylinux_2_N"):
        parse_platform(text, "3.11")
