"""The real nvidia-ml-py over a management library that tests can make say anything."""

import subprocess

import pytest

from llava_pack.health.facts import GpuProcess
from llava_pack.health.gpu import probe_gpus
from llava_pack.health.machine import check_gpus
from tests.conftest import ROOT

pytestmark = pytest.mark.engine  # nvidia-ml-py comes with the serving side


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nvml")
    command = ["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o"]
    command += [str(folder / "libnvidia-ml.so.1"), str(ROOT / "tests/support/nvml.c")]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def gpu(library, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    return monkeypatch


def levels(facts, *, wanted=True):
    return [(finding.level, finding.code) for finding in check_gpus(facts, wanted=wanted)]


def test_a_gpu_that_is_well_is_described(gpu):
    facts = probe_gpus()
    (one,) = facts.gpus
    assert (facts.driver, one.name, one.total_bytes) == (
        "580.65.06", "NVIDIA Test 24GB", 24_000_000_000,
    )  # fmt: skip
    assert one.processes == (GpuProcess(pid=4242, used_bytes=4_000_000_000),)
    (finding,) = check_gpus(facts, wanted=True)
    assert finding.level == "ok"
    assert "20.0 of 24.0 GB free, 45 °C, used by 4242" in finding.text


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("FAKE_ECC", "3", [("fail", "xid")]),
        ("FAKE_FAILED", "1", [("fail", "xid")]),
        ("FAKE_PENDING", "1", [("warn", "xid")]),
        ("FAKE_TEMPERATURE", "89", [("warn", "")]),
        ("FAKE_THROTTLE", "64", [("warn", "")]),
        ("FAKE_THROTTLE", "1", [("ok", "")]),  # idle is no fault
        ("FAKE_COUNT", "0", [("fail", "no-gpu-found")]),
        ("FAKE_INIT", "4", [("fail", "no-gpu-found")]),  # no permission
        ("FAKE_INIT", "9", [("fail", "no-gpu-found")]),  # driver not loaded
    ],
)
def test_what_is_wrong_with_a_gpu_is_named(gpu, name, value, found):
    gpu.setenv(name, value)
    assert levels(probe_gpus()) == found


def test_what_a_gpu_does_not_tell_is_none_and_no_fault(gpu):
    gpu.setenv("FAKE_NO_ECC", "1")
    facts = probe_gpus()
    assert facts.gpus[0].ecc_uncorrected is None
    assert facts.gpus[0].remap_pending is None
    assert levels(facts) == [("ok", "")]


def test_a_driver_that_hangs_does_not_take_the_check_with_it(gpu):
    gpu.setenv("FAKE_HANG", "1")
    facts = probe_gpus()
    assert "did not answer within 2 s" in facts.error
    assert levels(facts) == [("fail", "no-gpu-found")]
    assert levels(facts, wanted=False) == [("ok", "")]


def test_a_machine_without_a_driver_serves_on_its_processor():
    assert levels(probe_gpus(), wanted=False) == [("ok", "")]


def test_errors_in_the_kernels_log_are_shown(gpu, tmp_path):
    dmesg = tmp_path / "dmesg"
    dmesg.write_text("#!/bin/sh\necho '[1.0] NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off'\n")
    dmesg.chmod(0o755)
    gpu.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    facts = probe_gpus()
    assert levels(facts) == [("ok", ""), ("warn", "xid")]
