"""vLLM: the engine for throughput, on GPUs from compute capability 7.0.

Source: vllm 0.33.0, vllm/entrypoints/openai, vllm/engine/arg_utils.py, vllm/v1/metrics/loggers.py.
"""

import json
from collections.abc import Iterator, Mapping

from llava_pack.format.precision import FACTS, QUANTIZED
from llava_pack.profiles import dialects
from llava_pack.profiles.profile import Launch, Profile, Release

_TERM_S = 25.0
_DRAIN_S = 20


def _argv(launch: Launch) -> tuple[str, ...]:
    return ("-m", "vllm.entrypoints.cli.main", "serve", str(launch.model_dir), *_options(launch))


def _options(launch: Launch) -> Iterator[str]:
    yield from ("--uds", str(launch.socket), "--served-model-name", launch.name)
    yield from PROFILE.precisions[launch.precision]
    if launch.context_tokens is not None:
        yield from ("--max-model-len", str(launch.context_tokens))
    yield from ("--max-num-seqs", str(launch.slots))
    yield from ("--limit-mm-per-prompt", json.dumps({"image": launch.pictures}))
    yield from ("--mm-processor-kwargs", json.dumps({"backend": "pil"}))
    yield from ("--allowed-media-domains", "invalid.", "--disable-fastapi-docs")
    yield from ("--enable-prompt-tokens-details", "--disable-uvicorn-access-log")
    yield from ("--shutdown-timeout", str(_DRAIN_S))
    if launch.gpus > 1:
        yield from ("--tensor-parallel-size", str(launch.gpus))
        yield from ("--distributed-executor-backend", "mp")


def _environment(launch: Launch) -> Mapping[str, str]:
    return {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": "127.0.0.1" if launch.node is None else launch.node.own,
        "VLLM_CACHE_ROOT": str(launch.folder / "vllm"),
        "VLLM_RPC_BASE_PATH": str(launch.folder),
        "TRITON_CACHE_DIR": str(launch.folder / "triton"),
    }


PROFILE = Profile(
    package="vllm",
    releases=(
        Release(
            version="0.33.0",
            requirements=("vllm==0.33.0",),
            cuda="13",
            glibc_minor=31,
            capability="7.5",
            arches=("x86_64", "aarch64"),
        ),
    ),
    layouts=("hf",),
    architectures=frozenset({"LlavaForConditionalGeneration"}),
    precisions={
        name: ("--dtype", facts.dtype) for name, facts in FACTS.items() if name not in QUANTIZED
    },
    argv=_argv,
    environment=_environment,
    way="unix",
    ready="/health",
    dialect=dialects.VLLM,
    metrics=dialects.VLLM_METRICS,
    needs=frozenset({"cc"}),
    spreads=("tensor", "pipeline"),
    nodes=True,
    term_s=_TERM_S,
)
