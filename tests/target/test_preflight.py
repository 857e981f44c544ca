"""Preflight with GPUs, which cannot be had here: a program that says what nvidia-smi would."""

from dataclasses import replace

import pytest

from llava_pack.target import preflight, programs
from tests.support.bundle import BundleSimulator

GIB = 1 << 30


@pytest.fixture
def failed(monkeypatch, tmp_path):
    """Return what fails for a model of 20 GiB over two GPUs on a machine that has these."""

    def findings(*rows):
        said = "\n".join(f"RTX, 580.95.05, {row}" for row in rows)
        smi = tmp_path / "nvidia-smi"
        smi.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n")
        smi.chmod(0o755)
        monkeypatch.setattr(programs, "SEARCH_PATH", f"{tmp_path}:{programs.SEARCH_PATH}")
        bundle = BundleSimulator(
            floors={
                "driver": "580.65",
                "compute_capability": "7.5",
                "memory_bytes": {"nf4": 20 * GIB},
            }
        )
        manifest = bundle.manifest(bundle.payload())
        manifest = replace(manifest, serving=replace(manifest.serving, gpus=2))
        python = manifest.floors.python
        found = preflight.findings(
            manifest, tmp_path, python_version=python, present_bytes=0, now=2e9
        )
        free = preflight.free_gpu_memory(manifest, serves=False, downtime=True)
        return {one.name for one in (*found, *free) if one.level != "ok"}

    return findings


def test_two_gpus_are_added_up(failed):
    whole = "8.6, 12288, 11900, Disabled"
    assert failed(whole, whole) == set()
    assert failed(whole, "8.6, 12288, 4096, [N/A]") == {"free GPU memory"}


@pytest.mark.parametrize("other", ["8.0, 81920, 81000, Enabled", "7.0, 16384, 16000, Disabled"])
def test_a_gpu_that_is_cut_or_too_old_is_not(failed, other):
    assert "GPU memory" in failed("8.6, 12288, 11900, Disabled", other)
