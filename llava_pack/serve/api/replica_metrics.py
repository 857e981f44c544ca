"""Metrics of a model's replicas: how each stands, and what became of its requests. Pure."""

from collections.abc import Callable, Iterator, Sequence

from llava_pack.serve.api.metric_lines import REASONS, escaped, head
from llava_pack.serve.port import Replica, Served

_OF_REPLICAS: tuple[tuple[str, str, str, Callable[[Replica], float]], ...] = (
    (
        "llava_pack:replica_ready",
        "gauge",
        "1 for a replica that is ready.",
        lambda one: one.status.phase == "ready",
    ),
    (
        "llava_pack:replica_requests_in_flight",
        "gauge",
        "Requests that a replica answers for this server.",
        lambda one: one.in_flight,
    ),
    (
        "llava_pack:replica_requests_running",
        "gauge",
        "Requests running on a replica, of all its clients.",
        lambda one: one.vitals.running,
    ),
    (
        "llava_pack:replica_requests_waiting",
        "gauge",
        "Requests waiting on a replica, of all its clients.",
        lambda one: one.vitals.waiting,
    ),
    (
        "llava_pack:replica_losses_total",
        "counter",
        "How often a replica that was ready could not be reached.",
        lambda one: one.tally.restarts,
    ),
)


def replica_lines(models: Sequence[Served]) -> Iterator[str]:
    """Yield how each of several engines of a model stands; nothing where there is one."""
    if not any(model.replicas for model in models):
        return
    for name, kind, about, value in _OF_REPLICAS:
        yield from head(name, kind, about)
        for model in models:
            for one in model.replicas:
                yield f"{name}{{{_of_replica(model, one)}}} {value(one):.15g}"
    name = "llava_pack:replica_requests_total"
    yield from head(name, "counter", "Requests that a replica was asked, by how they ended.")
    for model in models:
        for one in model.replicas:
            for reason in REASONS:
                labels = f'{_of_replica(model, one)},finished_reason="{reason}"'
                yield f"{name}{{{labels}}} {one.tally.ended[reason]}"


def _of_replica(model: Served, one: Replica) -> str:
    return f'model_name="{escaped(model.name)}",replica="{escaped(one.replica)}"'
