"""The releases of each engine, newest first, and the machines that each is for.

Each was resolved with uv 0.13.9 as of its moment; what came of it is a table in
docs/reference/engines.md. An older one is for an older driver or an older C library.

Source: the wheels' own tags and requirements, and their times of upload, as PyPI has them.
"""

from collections.abc import Mapping

from llava_pack.profiles.profile import Release

_BNB = ("vllm-bnb-plugin==0.0.3", "bitsandbytes>=0.49")
_CHECKED = "2026-11-29T00:00:00Z"


def _for_trials(package: str, version: str) -> Release:
    """Return a build for CPUs. PyPI has no such wheel: an index or a folder beside it must."""
    wanted = f"{package}=={version}"
    return Release(
        version=version, requirements=(wanted,), cuda="none", glibc_minor=28, capability=""
    )


RELEASES: Mapping[str, tuple[Release, ...]] = {
    "vllm": (
        Release(
            version="0.33.0",
            requirements=("vllm==0.33.0",),
            cuda="13",
            glibc_minor=31,
            capability="7.5",
            resolved=_CHECKED,
            kernels=_BNB,
        ),
        Release(
            version="0.33.0",
            requirements=("vllm==0.33.0",),
            cuda="13",
            glibc_minor=34,
            capability="7.5",
            arches=("aarch64",),
            resolved=_CHECKED,
            kernels=_BNB,
        ),
        Release(
            version="0.19.1",
            requirements=("vllm==0.19.1",),
            cuda="12",
            glibc_minor=31,
            capability="7.0",
            resolved="2026-04-26T00:00:00Z",
            kernels=("bitsandbytes>=0.46.1",),
        ),
        Release(
            version="0.11.2",
            requirements=("vllm==0.11.2",),
            cuda="12",
            glibc_minor=28,
            capability="7.0",
            resolved="2025-12-02T00:00:00Z",
            kernels=("bitsandbytes>=0.46.1",),
        ),
        _for_trials("vllm", "0.32.0+cpu"),
    ),
    "sglang": (
        Release(
            version="0.5.23",
            requirements=("sglang==0.5.23",),
            cuda="13",
            glibc_minor=34,
            capability="8.0",
            arches=("x86_64", "aarch64"),
            resolved=_CHECKED,
        ),
        Release(
            version="0.5.10.post1",
            requirements=("sglang==0.5.10.post1",),
            cuda="12",
            glibc_minor=28,
            capability="7.5",
            resolved="2026-04-22T00:00:00Z",
        ),
        _for_trials("sglang", "0.5.23+cpu"),
    ),
    "lmdeploy": (
        Release(
            version="0.18.0",
            requirements=("lmdeploy==0.18.0",),
            cuda="13",
            glibc_minor=28,
            capability="7.5",
            resolved=_CHECKED,
        ),
        # The same, on a torch that an older driver runs: its own kernels are for CUDA 12 anyway.
        Release(
            version="0.18.0",
            requirements=("lmdeploy==0.18.0",),
            cuda="12",
            glibc_minor=28,
            capability="7.0",
            resolved=_CHECKED,
        ),
    ),
}
"""By engine, as `Engine` names it."""
