from dataclasses import replace

import pytest

from llava_pack.format.exit_codes import ExitCode
from llava_pack.format.manifest import Floors
from llava_pack.format.target import UNKNOWN, Gpu, Machine, check_floors

FLOORS = Floors(
    python="3.11",
    python_tag="cp311",
    platform="linux",
    arch="x86_64",
    glibc="2.28",
    driver="525.60.13",
    compute_capability="7.5",
    disk_bytes=1000,
    memory_bytes={"fp16": 500, "nf4": 100},
    cpu_flags=("avx2",),
)
MACHINE = Machine(
    os="linux",
    kernel="5.15",
    arch="x86_64",
    glibc="2.35",
    python_version="3.11.9",
    cpu_flags=("sse2", "avx2"),
    disk_free_bytes=1000,
    memory_bytes=10,
    gpus=(Gpu(name="T4", driver="550.54.14", compute_capability="7.5", memory_bytes=100),),
)


def failed(profile, floors=FLOORS, precision="nf4"):
    found = check_floors(profile, floors, precision=precision)
    return {f.name: f.exit_code for f in found if f.level == "fail"}


def test_a_machine_that_just_suffices_passes():
    assert failed(MACHINE) == {}


@pytest.mark.parametrize(
    ("name", "code", "change"),
    [
        ("os", 3, {"os": "darwin"}),
        ("arch", 3, {"arch": "aarch64"}),
        ("python", 3, {"python_version": "3.12.1"}),
        ("python", 3, {"python_version": "3.1.1"}),
        ("glibc", 3, {"glibc": "2.9"}),
        ("cpu", 3, {"cpu_flags": ("sse2",)}),
        ("disk", 7, {"disk_free_bytes": 999}),
    ],
)
def test_each_floor_fails_alone_with_its_code(name, code, change):
    assert failed(replace(MACHINE, **change)) == {name: ExitCode(code)}


def test_gpu_floors():
    old = replace(MACHINE, gpus=(replace(MACHINE.gpus[0], driver="470.10"),))
    assert failed(old) == {"driver": ExitCode.PREFLIGHT}
    small = replace(MACHINE, gpus=(replace(MACHINE.gpus[0], memory_bytes=99),))
    assert failed(small) == {"GPU memory": ExitCode.SPACE}
    assert failed(MACHINE, precision="fp16") == {"GPU memory": ExitCode.SPACE}
    assert set(failed(replace(MACHINE, gpus=()))) == {"driver", "compute capability", "GPU memory"}
    on_cpu = replace(FLOORS, driver=None, compute_capability=None)
    assert failed(replace(MACHINE, gpus=None), on_cpu) == {"memory": ExitCode.SPACE}


@pytest.mark.parametrize(
    ("other", "gpus", "passes"),
    [
        ({}, 2, True),
        ({}, 1, False),
        ({"memory_bytes": 399}, 2, False),
        ({"memory_bytes": None}, 2, False),
        ({"mig": True}, 2, False),
        ({"compute_capability": "7.0"}, 2, False),
        ({"compute_capability": None}, 2, False),
    ],
)
def test_gpus_that_share_a_model_are_added_up(other, gpus, passes):
    large = replace(MACHINE.gpus[0], memory_bytes=400)
    two = replace(MACHINE, gpus=(MACHINE.gpus[0], replace(large, **other)))
    found = check_floors(two, FLOORS, precision="fp16", gpus=gpus)
    wrong = {f.name: f.exit_code for f in found if f.level == "fail"}
    assert wrong == ({} if passes else {"GPU memory": ExitCode.SPACE})


def test_what_is_not_known_does_not_pass():
    found = check_floors(Machine(), FLOORS, precision="nf4")
    assert all(finding.level == "fail" for finding in found)
    assert all(UNKNOWN in finding.value for finding in found)
    assert len(found) == 9
    assert all(finding.fix for finding in found)
