import pytest

from llava_pack.format.errors import RecipeError
from llava_pack.lock.platform import parse_platform
from llava_pack.lock.pylock import LockedWheel
from llava_pack.lock.torch_build import choose_torch, local_cpu_torch, torch_needs

PLATFORM = parse_platform("x86_64-manylinux_2_28", "3.11")
FITTING = "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"


def test_a_local_cpu_wheel_is_pinned_exactly(tmp_path):
    (tmp_path / FITTING).touch()
    (tmp_path / "torch-2.9.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    choice = choose_torch("none", PLATFORM, [tmp_path], backend=None)
    assert (choice.requirements, choice.backend) == (("torch==2.13.0+cpu",), None)


@pytest.mark.parametrize(
    "other",
    [
        "torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl",
        "torch-2.13.0+cu126-cp311-cp311-manylinux_2_28_x86_64.whl",
        "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_aarch64.whl",
        "torch-broken.whl",
    ],
)
def test_wheels_that_do_not_fit_are_passed_over(tmp_path, other):
    (tmp_path / other).touch()
    assert local_cpu_torch(PLATFORM, [tmp_path]) is None
    assert choose_torch("none", PLATFORM, [tmp_path], backend=None).backend == "cpu"


def test_the_plain_index_is_named_with_its_size():
    choice = choose_torch("none", PLATFORM, [], backend="pypi")
    assert choice.backend is None
    assert "2.9 GB" in choice.note


def test_a_cuda_target_never_takes_the_cpu_wheel(tmp_path):
    (tmp_path / FITTING).touch()
    assert choose_torch("12", PLATFORM, [tmp_path], backend=None).requirements == (
        "torch>=2.6,<2.11",
    )


def test_a_backend_given_by_hand_wins(tmp_path):
    (tmp_path / FITTING).touch()
    assert choose_torch("13", PLATFORM, [tmp_path], backend="cu130").backend == "cu130"


def locked(**versions):
    return [
        LockedWheel(name=name.replace("_", "-"), version=version, filename="", url="", sha256="")
        for name, version in versions.items()
    ]


def test_the_cuda_of_a_lock_is_that_of_its_own_runtime():
    needs = torch_needs(locked(torch="2.10.0", nvidia_cuda_runtime_cu12="12.8.90"), "12")
    assert (needs.cuda, needs.driver, needs.capability) == ("12.8", "525.60", "7.0")
    needs = torch_needs(locked(torch="2.15.0", nvidia_cuda_runtime="13.2.12"), "13")
    assert (needs.cuda, needs.driver, needs.capability) == ("13.2", "580.65", "7.5")


def test_a_gpu_without_a_cuda_runtime_is_a_wrong_lock():
    with pytest.raises(RecipeError, match="got none") as caught:
        torch_needs(locked(torch="2.10.0"), "12")
    assert caught.value.exit_code == 10
    assert torch_needs(locked(torch="2.13.0+cpu"), "none").driver is None


def test_a_newer_cuda_than_was_asked_for_is_a_wrong_lock():
    with pytest.raises(RecipeError, match=r"includes CUDA 13\.0, expected at most CUDA 12"):
        torch_needs(locked(torch="2.11.0", nvidia_cuda_runtime="13.0.88"), "12")


def test_a_lock_without_torch_is_a_wrong_lock():
    with pytest.raises(RecipeError, match="torch is missing"):
        torch_needs([], "12")
