"""Everything that a bundle for a CPU has to hold, as wheels of a few bytes: a build takes a second."""

import zipfile
from pathlib import Path

from packaging.requirements import Requirement

from llava_pack.assemble.requirements import target_requirements
from llava_pack.assemble.runtime_files import PROGRAMS
from llava_pack.lock.torch_build import TorchChoice
from llava_pack.recipe import find_recipe, read_recipe
from tests.support.wheels import write_wheel


def write_tiny_wheels(folder: Path) -> Path:
    """Write a wheel for each requirement of llava-pack's own engine; return the folder.

    Given as PIP_FIND_LINKS with PIP_NO_INDEX, they are all that a build finds, and asks for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipe = read_recipe(find_recipe("demo")).value
    for line in target_requirements(recipe, TorchChoice(requirements=())):
        requirement = Requirement(line)
        if requirement.name == "torch":
            write_wheel(folder, "torch", "2.9.0+cpu")
        elif requirement.marker is None or requirement.marker.evaluate():
            name = requirement.name.replace("-", "_")
            wheel = write_wheel(folder, name, _version(requirement))
            if requirement.name in PROGRAMS:
                with zipfile.ZipFile(wheel, "a") as archive:
                    member = PROGRAMS[requirement.name].member
                    archive.writestr(member.replace(".data", f"{wheel.stem}.data"), "#!/bin/sh\n")
    return folder


def write_tiny_engine(folder: Path) -> Path:
    """Write what is asked for vLLM on a CPU beside those; return the folder.

    One of its packages is another version than llava-pack's, and one is the same.
    """
    write_wheel(folder, "vllm", "0.32.0+cpu", "torch", "httpx", "pillow>=13")
    write_wheel(folder, "pillow", "13.0.0")
    return folder


def write_tiny_gpu_engine(folder: Path) -> Path:
    """Write what SGLang's release for CUDA 12 is asked for on a GPU; return the folder."""
    runtime = "nvidia-cuda-runtime-cu12"
    write_wheel(folder, "sglang", "0.5.10.post1", "torch", "httpx")
    write_wheel(folder, "torch", "2.9.1", runtime)
    write_wheel(folder, runtime.replace("-", "_"), "12.8.90")
    return folder


def _version(requirement: Requirement) -> str:
    """Return the oldest version that will do."""
    floors = [one.version for one in requirement.specifier if one.operator in {">=", "=="}]
    return floors[0] if floors else "1.0"
