"""vLLM: the engine for throughput, on GPUs from compute capability 7.0.

Source: vllm 0.33.0, 0.19.1 and 0.11.2: vllm/entrypoints/openai/cli_args.py (since 0.33
vllm/entrypoints/common/cli_args.py), vllm/engine/arg_utils.py, vllm/envs.py and
vllm/v1/metrics/loggers.py.
"""

import json
from collections.abc import Iterator, Mapping

from llava_pack.format.precision import QUANTIZED
from llava_pack.profiles import dialects
from llava_pack.profiles.loads import LOADS
from llava_pack.profiles.profile import LOOPBACK, QUIET, Launch, Profile, interface_of, kept_of
from llava_pack.profiles.releases import RELEASES

_TERM_S = 25.0
_DRAIN_S = 20
_BEFORE_DRAIN = "0.11.2"
"""The last of our releases without --shutdown-timeout."""
_STILL = frozenset({"LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration"})
"""Classes without a processor of videos, which has no such backend; see `Launch.architecture`."""
_CPU_CACHE_GIB = 2
_UNCOMPILED = {"TORCH_COMPILE_DISABLE": "1"}
"""Its sampler compiles by itself what counts ranks of tokens: a minute, and its end without g++."""
"""It is taken at once, whatever is asked."""


def _argv(launch: Launch) -> tuple[str, ...]:
    return ("-m", "vllm.entrypoints.cli.main", "serve", str(launch.model_dir), *_options(launch))


def _options(launch: Launch) -> Iterator[str]:
    if launch.node is None or launch.node.rank == 0:
        yield from ("--uds", str(launch.socket))
    yield from ("--served-model-name", launch.name)
    yield from PROFILE.loads.precisions[launch.precision]
    if launch.context_tokens is not None:
        yield from ("--max-model-len", str(launch.context_tokens))
    yield from ("--max-num-seqs", str(launch.slots))
    yield from ("--limit-mm-per-prompt", json.dumps({"image": launch.pictures}))
    if launch.architecture in _STILL:
        yield from ("--mm-processor-kwargs", json.dumps({"backend": "pil"}))
    yield from ("--generation-config", "vllm")  # a model's folder brings no sampling of its own
    yield from ("--allowed-media-domains", "invalid.", "--disable-fastapi-docs")
    yield from ("--enable-prompt-tokens-details", "--disable-uvicorn-access-log")
    if launch.version != _BEFORE_DRAIN:
        yield from ("--shutdown-timeout", str(_DRAIN_S))
    if launch.device == "cpu":  # a compiler and half a minute at each start otherwise
        yield "--enforce-eager"
    yield from _spread(launch)


def _spread(launch: Launch) -> Iterator[str]:
    """Yield how the model lies on GPUs: within a machine each layer on all of them.

    On CPUs each layer is on all machines: between them a pipeline fails in vllm 0.32. What was
    quantized ahead by bitsandbytes is laid one layer after the other everywhere, since it
    cannot be cut otherwise. Source: vllm-bnb-plugin 0.0.3.
    """
    nodes = 1 if launch.node is None else launch.node.count
    tensor, pipeline = launch.gpus, nodes
    if launch.precision in QUANTIZED:
        tensor, pipeline = 1, launch.gpus * nodes
    elif launch.device == "cpu":
        tensor, pipeline = launch.gpus * nodes, 1
    if tensor > 1:
        yield from ("--tensor-parallel-size", str(tensor))
    if pipeline > 1:
        yield from ("--pipeline-parallel-size", str(pipeline))
    if tensor * pipeline > 1:
        yield from ("--distributed-executor-backend", "mp")
    if launch.node is not None:
        yield from ("--nnodes", str(launch.node.count), "--node-rank", str(launch.node.rank))
        yield from ("--master-addr", launch.node.head, "--master-port", str(launch.node.port))
        if launch.node.rank:
            yield "--headless"


def _environment(launch: Launch) -> Mapping[str, str]:
    cpu = {"VLLM_CPU_KVCACHE_SPACE": str(_CPU_CACHE_GIB), **_UNCOMPILED}
    return {
        **QUIET,
        **interface_of(launch),
        **kept_of(launch),
        **(cpu if launch.device == "cpu" else {}),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": LOOPBACK if launch.node is None else launch.node.own,
        "VLLM_CACHE_ROOT": str(launch.compiled / "vllm"),
        "VLLM_CONFIG_ROOT": str(launch.folder / "config" / "vllm"),
        "VLLM_RPC_BASE_PATH": str(launch.folder),
        "VLLM_USE_FLASHINFER_SAMPLER": "0",  # which would be compiled by nvcc while it serves
    }


PROFILE = Profile(
    package="vllm",
    releases=RELEASES["vllm"],
    loads=LOADS["vllm"],
    argv=_argv,
    environment=_environment,
    way="unix",
    ready="/health",
    dialect=dialects.VLLM,
    metrics=dialects.VLLM_METRICS,
    spreads=("tensor", "pipeline"),
    nodes=True,
    term_s=_TERM_S,
)
