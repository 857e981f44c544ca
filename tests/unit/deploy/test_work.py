"""What `deploy` remembers of a machine, and what it refuses before anything is built."""

from dataclasses import replace

import pytest

from llava_pack.cli.laptop.options import PackChoices
from llava_pack.deploy.work import Wanted, check_account, inputs_digest, unit_name
from llava_pack.format.errors import UsageError
from llava_pack.format.target import Gpu
from llava_pack.lock.profile import TargetProfile

GPU = Gpu(name="A10", driver="550.54.15", compute_capability="8.6", memory_bytes=24 << 30)
MACHINE = TargetProfile(
    os="linux", arch="x86_64", glibc="2.35", gpus=(GPU,), memory_bytes=64 << 30, uid=1000
)


def _inputs(profile: TargetProfile, typed: str = "") -> str:
    options = PackChoices(recipe="llava-v1.5-7b").request_for(profile, None)
    return inputs_digest(options, typed)


def test_what_changes_while_a_server_runs_asks_for_no_other_bundle() -> None:
    busy = replace(GPU, memory_free_bytes=1 << 30)
    idle = replace(GPU, memory_free_bytes=24 << 30)
    later = replace(MACHINE, gpus=(busy,), memory_bytes=(64 << 30) + 4096, memory_free_bytes=1)
    assert _inputs(replace(MACHINE, gpus=(idle,))) == _inputs(later)


@pytest.mark.parametrize(
    "other",
    [
        replace(MACHINE, glibc="2.28"),
        replace(MACHINE, gpus=(replace(GPU, memory_bytes=12 << 30),)),
        replace(MACHINE, gpus=(GPU, GPU)),
        replace(MACHINE, memory_bytes=32 << 30),
    ],
)
def test_another_machine_asks_for_another_bundle(other: TargetProfile) -> None:
    assert _inputs(MACHINE) != _inputs(other)


def test_other_options_ask_for_another_bundle() -> None:
    assert _inputs(MACHINE, "--cuda 12") != _inputs(MACHINE)


def test_a_service_has_the_account_that_systemd_needs() -> None:
    wanted = Wanted(
        destination="gpu01",
        options=lambda profile: PackChoices(recipe="demo").request_for(profile, None),
        typed="",
    )
    root, named = replace(MACHINE, uid=0), replace(wanted, service=True, account="llava")
    check_account(wanted, root)
    check_account(named, root)
    check_account(replace(wanted, service=True), MACHINE)
    with pytest.raises(UsageError, match="expected --account"):
        check_account(replace(wanted, service=True), root)
    with pytest.raises(UsageError, match="only root"):
        check_account(named, MACHINE)


def test_two_recipes_have_two_units() -> None:
    assert unit_name("llava-v1.5-7b") != unit_name("llava-v1.5-13b")
