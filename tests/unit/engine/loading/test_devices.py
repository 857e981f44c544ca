"""Which GPUs a model may share: the one it is loaded on, then those that torch has code for."""

from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import torch

from llava_pack.engine.loading.placement import visible_devices

GPUS = ((8, 6, 8), (6, 1, 24), (8, 9, 12), (7, 5, 16))
"""Compute capability and GiB of each."""


@pytest.fixture
def gpus(monkeypatch):
    """Have four GPUs, which cannot be had here, and a torch whose oldest code is for 7.5."""
    fakes = {
        "device_count": lambda: len(GPUS),
        "get_arch_list": lambda: ["sm_75", "sm_80", "sm_90a", "compute_120"],
        "get_device_capability": lambda device: GPUS[device.index][:2],
        "get_device_properties": lambda one: SimpleNamespace(total_memory=GPUS[one.index][2] << 30),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)


@pytest.mark.parametrize(
    ("at_most", "numbers"), [(None, [0, 3, 2]), (1, [0]), (2, [0, 3]), (9, [0, 3, 2])]
)
def test_the_largest_that_torch_has_code_for_beside_the_first(gpus, at_most, numbers):
    found = visible_devices(torch.device("cuda"), at_most)
    assert [device.index for device in found] == numbers


def test_a_cpu_is_one():
    assert visible_devices(torch.device("cpu"), 2) == [torch.device("cpu")]
