"""`/metrics`: Prometheus text, under the names that vLLM's dashboards know. Pure.

What the engine counts begins anew with its process, and what the gateway counts with the gateway's.
Nothing here asks an engine anything: the supervisor took the figures before.

Source: prometheus.io, "Text-based format" 0.0.4; vllm v1/metrics/loggers.py for the names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llava_pack.engine.stats import Histogram
from llava_pack.serve.admission.refusals import CONNECTIONS, COUNTED, Refusals
from llava_pack.serve.api.metric_lines import REASONS, head, labels_of
from llava_pack.serve.api.replica_metrics import replica_lines
from llava_pack.serve.port import PHASES, Served

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Number:
    """A gauge or a counter of a model."""

    name: str
    kind: str
    about: str
    value: Callable[[Served], float]


@dataclass(frozen=True, slots=True)
class _Distribution:
    """A histogram of a model."""

    name: str
    about: str
    value: Callable[[Served], Histogram]


_NUMBERS = (
    _Number(
        "vllm:num_requests_running",
        "gauge",
        "Requests currently running.",
        lambda m: m.stats.running,
    ),
    _Number("vllm:num_requests_waiting", "gauge", "Requests waiting.", lambda m: m.stats.waiting),
    _Number(
        "vllm:kv_cache_usage_perc",
        "gauge",
        "Fraction of the KV cache used by running requests; 1 is full.",
        lambda m: m.stats.work.kv_usage,
    ),
    _Number(
        "vllm:prompt_tokens",
        "counter",
        "Prompt tokens of answered requests.",
        lambda m: m.stats.prompt_tokens,
    ),
    _Number(
        "vllm:generation_tokens",
        "counter",
        "Generated tokens.",
        lambda m: m.stats.generated_tokens,
    ),
    _Number(
        "vllm:prefix_cache_queries",
        "counter",
        "Prompt tokens looked up in the prefix cache.",
        lambda m: m.stats.work.prefix_queries,
    ),
    _Number(
        "vllm:prefix_cache_hits",
        "counter",
        "Prompt tokens found in the prefix cache.",
        lambda m: m.stats.work.prefix_hits,
    ),
    _Number(
        "vllm:mm_cache_queries",
        "counter",
        "Pictures looked up in the picture cache.",
        lambda m: m.stats.work.picture_queries,
    ),
    _Number(
        "vllm:mm_cache_hits",
        "counter",
        "Pictures found in the picture cache.",
        lambda m: m.stats.work.picture_hits,
    ),
    _Number(
        "llava_pack:engine_steps",
        "counter",
        "Engine steps: the heartbeat.",
        lambda m: m.stats.steps,
    ),
    _Number(
        "llava_pack:engine_stalled_seconds",
        "gauge",
        "Seconds without a step while requests were running.",
        lambda m: m.vitals.stalled_s,
    ),
    _Number(
        "llava_pack:engine_restarts",
        "counter",
        "Restarts of the engine.",
        lambda m: m.tally.restarts,
    ),
    _Number(
        "llava_pack:requests_refused",
        "counter",
        "Requests rejected because the queue was full.",
        lambda m: m.tally.refused,
    ),
    _Number(
        "llava_pack:picture_cache_bytes",
        "gauge",
        "Size of the picture cache.",
        lambda m: m.stats.work.picture_bytes,
    ),
)
_DISTRIBUTIONS = (
    _Distribution(
        "vllm:time_to_first_token_seconds",
        "Seconds from arrival at the engine to the first token.",
        lambda m: m.stats.first_token_s,
    ),
    _Distribution(
        "vllm:inter_token_latency_seconds",
        "Seconds between two tokens of a request.",
        lambda m: m.stats.token_gap_s,
    ),
    _Distribution(
        "vllm:iteration_tokens_total", "Tokens computed per step.", lambda m: m.stats.step_tokens
    ),
    _Distribution(
        "vllm:e2e_request_latency_seconds",
        "Seconds from arrival to the end of the answer.",
        lambda m: m.tally.total_s,
    ),
    _Distribution(
        "vllm:request_queue_time_seconds",
        "Seconds from arrival to the first step of a request.",
        lambda m: m.tally.queued_s,
    ),
    _Distribution(
        "vllm:request_prompt_tokens", "Prompt tokens per request.", lambda m: m.tally.prompt_tokens
    ),
    _Distribution(
        "vllm:request_generation_tokens",
        "Generated tokens per request.",
        lambda m: m.tally.answer_tokens,
    ),
)


def exposition(models: Mapping[str, Served], refusals: Refusals, restarts: int = 0) -> str:
    """Return the metrics of some models, as Prometheus reads them.

    Args:
        models: by name.
        refusals: what was refused before a model was asked.
        restarts: how often the gateway was started again.
    """
    served = tuple(models.values())
    lines = [
        line
        for part in (
            _numbers(served),
            _distributions(served),
            _ended(served),
            _phases(served),
            replica_lines(served),
            _gateway(restarts),
            _refused(refusals),
        )
        for line in part
    ]
    return "\n".join(lines) + "\n"


def _numbers(models: Sequence[Served]) -> Iterator[str]:
    for number in _NUMBERS:
        name = f"{number.name}_total" if number.kind == "counter" else number.name
        yield from head(name, number.kind, number.about)
        for model in models:
            yield f"{name}{{{labels_of(model)}}} {number.value(model):.15g}"


def _distributions(models: Sequence[Served]) -> Iterator[str]:
    for distribution in _DISTRIBUTIONS:
        yield from head(distribution.name, "histogram", distribution.about)
        for model in models:
            yield from _buckets(distribution.name, labels_of(model), distribution.value(model))


def _buckets(name: str, labels: str, histogram: Histogram) -> Iterator[str]:
    below = 0
    bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    for bound, count in zip(bounds, histogram.counts, strict=True):
        below += count
        yield f'{name}_bucket{{{labels},le="{bound}"}} {below}'
    yield f"{name}_sum{{{labels}}} {histogram.total!r}"
    yield f"{name}_count{{{labels}}} {histogram.count}"


def _ended(models: Sequence[Served]) -> Iterator[str]:
    name = "vllm:request_success_total"
    yield from head(name, "counter", "Finished requests, by reason.")
    for model in models:
        for reason in REASONS:
            labels = f'{labels_of(model)},finished_reason="{reason}"'
            yield f"{name}{{{labels}}} {model.tally.ended[reason]}"


def _phases(models: Sequence[Served]) -> Iterator[str]:
    name = "llava_pack:model_phase"
    yield from head(name, "gauge", "1 for the current phase of a model.")
    for model in models:
        for phase in PHASES:
            labels = f'{labels_of(model)},phase="{phase}"'
            yield f"{name}{{{labels}}} {int(model.status.phase == phase)}"


def _gateway(restarts: int) -> Iterator[str]:
    name = "llava_pack:gateway_restarts_total"
    yield from head(name, "counter", "Restarts of the gateway.")
    yield f"{name} {restarts}"


def _refused(refusals: Refusals) -> Iterator[str]:
    name = "llava_pack:responses_refused_total"
    yield from head(name, "counter", "Refused requests, by status.")
    for status in sorted(COUNTED):
        yield f'{name}{{status="{status}"}} {refusals.statuses[status]}'
    name = "llava_pack:connections_ended_total"
    yield from head(name, "counter", "Connections ended without a valid request.")
    for reason in CONNECTIONS:
        yield f'{name}{{reason="{reason}"}} {refusals.connections[reason]}'
