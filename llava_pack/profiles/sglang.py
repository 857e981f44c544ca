"""SGLang: an engine that keeps what conversations have in common; it compiles while it serves.

Source: sglang 0.5.23 and 0.5.10.post1: python/sglang/srt/server_args.py (since 0.5.23
srt/arg_groups/fields), srt/environ.py, srt/entrypoints/http_server.py and the collectors of
metrics.
"""

import json
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
_CONTEXT_TOKENS = 4096
_EARLIER = "0.5.10.post1"
"""The release that knows neither of two options of later ones, and one by another name."""


def _argv(launch: Launch) -> tuple[str, ...]:
    return ("-m", "sglang.launch_server", *_options(launch))


def _options(launch: Launch) -> Iterator[str]:
    yield from ("--model-path", str(launch.model_dir))
    if launch.tokenizer_dir is not None:  # LLaVA's own layout, for which it has its own code
        yield from ("--tokenizer-path", str(launch.tokenizer_dir))
    else:  # its registry has no CLIP tower, so that it cannot load this layout by itself
        yield from ("--model-impl", "transformers")
    yield from ("--served-model-name", launch.name)
    yield from ("--host", LOOPBACK, "--port", str(launch.port))
    yield from PROFILE.loads.precisions[launch.precision]
    if launch.context_tokens is not None:
        yield from ("--context-length", str(launch.context_tokens))
    yield from ("--max-running-requests", str(launch.slots))
    yield from ("--limit-mm-data-per-request", json.dumps({"image": launch.pictures}))
    if launch.version == _EARLIER:
        yield "--disable-fast-image-processor"
    else:
        yield from ("--image-processor-backend", "pil", "--allowed-media-domains", "invalid.")
    yield from ("--sampling-defaults", "openai")  # a model's folder brings no sampling of its own
    yield from ("--enable-metrics", "--enable-cache-report", "--log-level-http", "warning")
    yield from _spread(launch)
    if launch.device == "cpu":
        yield from ("--device", "cpu", "--attention-backend", "torch_native")
        yield from ("--mm-attention-backend", "sdpa", "--sampling-backend", "pytorch")
        yield from ("--disable-cuda-graph", "--disable-overlap-schedule")
        tokens = launch.slots * (launch.context_tokens or _CONTEXT_TOKENS)
        yield from ("--max-total-tokens", str(tokens))  # else it takes most of the memory


def _spread(launch: Launch) -> Iterator[str]:
    """Yield how the model lies on GPUs: each layer on all of them, of all machines."""
    nodes = 1 if launch.node is None else launch.node.count
    if launch.gpus * nodes > 1:
        yield from ("--tp-size", str(launch.gpus * nodes))
    if launch.node is not None:
        yield from ("--nnodes", str(launch.node.count), "--node-rank", str(launch.node.rank))
        yield from ("--dist-init-addr", f"{launch.node.head}:{launch.node.port}")


def _environment(launch: Launch) -> Mapping[str, str]:
    cpu = {"SGLANG_USE_CPU_ENGINE": "1", "TORCH_COMPILE_DISABLE": "1"}
    # Its workers would find each other at a port of every address.
    meets = f"file://{launch.folder / 'meets'}"
    alone = {"SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE": meets} if launch.node is None else {}
    return {
        **QUIET,
        **interface_of(launch),
        **kept_of(launch),
        **(cpu if launch.device == "cpu" else {}),
        **alone,
        "SGLANG_CACHE_DIR": str(launch.compiled / "sglang"),
        "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",  # who asks how it is makes no work
    }


PROFILE = Profile(
    package="sglang",
    releases=RELEASES["sglang"],
    loads=LOADS["sglang"],
    argv=_argv,
    keys=("--api-key", "--admin-api-key"),
    environment=_environment,
    way="loopback",
    ready="/health",
    dialect=dialects.SGLANG,
    metrics=dialects.SGLANG_METRICS,
    nodes=True,
    term_s=_TERM_S,
)
