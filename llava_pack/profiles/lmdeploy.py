"""LMDeploy: TurboMind for InternVL, which compiles nothing; its PyTorch engine for LLaVA.

Source: lmdeploy 0.18.0: lmdeploy/cli/{serve,utils}.py, lmdeploy/turbomind/supported_models.py,
lmdeploy/pytorch/models/module_map.py and lmdeploy/metrics/loggers.py. It runs on no CPU.
"""

from collections.abc import Iterator, Mapping

from llava_pack.profiles import dialects
from llava_pack.profiles.loads import LOADS
from llava_pack.profiles.profile import (
    LOOPBACK,
    QUIET,
    Launch,
    Profile,
    interface_of,
    kept_of,
)
from llava_pack.profiles.releases import RELEASES

_TERM_S = 20.0
_TURBOMIND = frozenset({"InternVLForConditionalGeneration"})
"""Architectures of its engine in C++; the others have its engine in PyTorch."""


def _argv(launch: Launch) -> tuple[str, ...]:
    served = ("serve", "api_server", str(launch.model_dir))
    return ("-m", "lmdeploy", *served, *_options(launch))


def _options(launch: Launch) -> Iterator[str]:
    yield from ("--backend", "turbomind" if launch.architecture in _TURBOMIND else "pytorch")
    yield from ("--model-name", launch.name)
    yield from ("--server-name", LOOPBACK, "--server-port", str(launch.port))
    yield from PROFILE.loads.precisions[launch.precision]
    if launch.context_tokens is not None:
        yield from ("--session-len", str(launch.context_tokens))
    yield from ("--max-batch-size", str(launch.slots))
    yield from ("--generation-config", "lmdeploy")  # a model's folder brings no sampling of its own
    yield from ("--allowed-media-domains", "invalid.", "--disable-fastapi-docs")
    if launch.gpus > 1:
        yield from ("--tp", str(launch.gpus))


def _environment(launch: Launch) -> Mapping[str, str]:
    own = {"LMDEPLOY_DIST_MASTER_ADDR": LOOPBACK}
    return {**QUIET, **interface_of(launch), **kept_of(launch), **own}


PROFILE = Profile(
    package="lmdeploy",
    releases=RELEASES["lmdeploy"],
    loads=LOADS["lmdeploy"],
    argv=_argv,
    keys=("--api-keys",),
    environment=_environment,
    way="loopback",
    ready="/health",
    dialect=dialects.LMDEPLOY,
    metrics=dialects.LMDEPLOY_METRICS,
    term_s=_TERM_S,
)
