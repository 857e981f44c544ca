"""Tokens a second against what the smoke test measured when the model was installed. Pure.

What the engine itself counts is compared, so that no client and no network is judged. Only a model
that answered nobody else, on CPUs that nobody else used, is called slow.

Source: docs/reference/http-api.md, "Probes", for the metrics.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_pack.health.facts import GpusFacts
from llava_pack.health.report import Finding, Layer, figure

_SLOWER = 2.0
_SERVING_S = 0.005
"""What the gateway beside an engine may add to a token; the smoke test has none."""
_LEAST_TOKENS = 5
_BUSY_PART = 0.25
_LAPS = 3
_GPU_WHY = "its clocks are throttled (heat, a power limit), or another process computes on its GPU"
_GPU_FIX = "nvidia-smi -q -d PERFORMANCE,CLOCK,POWER,PIDS"
_CPU_WHY = "its clocks are throttled, or it has fewer CPUs than before"
_CPU_FIX = "nproc; cat /sys/fs/cgroup/cpu.max; grep MHz /proc/cpuinfo"


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What a server has counted of one model."""

    busy: int
    """Requests that run or wait."""
    ended: int
    """Requests that came to an end, whatever it was."""
    answered: int
    """Tokens of completed answers, counted as these end."""
    generated: int
    """Tokens of all answers, as of the server's last look at the engine."""
    gaps: int
    """From a token to the next of an answer, at that look too."""
    gaps_s: float

    def settled(self, before: "Counted") -> bool:
        """Return whether the server has looked at the engine since what was asked has ended."""
        return (
            not self.busy and self.generated - before.generated >= self.answered - before.answered
        )

    def token_s(self, before: "Counted", asked: int) -> float | None:
        """Return the seconds from a token to the next; None where others were answered too.

        Args:
            before: what was counted before the questions.
            asked: how many questions there were.
        """
        alone = (
            not (before.busy or self.busy)
            and self.ended - before.ended == asked
            and self.generated - before.generated == self.answered - before.answered
        )
        gaps = self.gaps - before.gaps
        return (self.gaps_s - before.gaps_s) / gaps if alone and gaps else None


@dataclass(frozen=True, kw_only=True)
class Lap:
    """Some answers, timed."""

    token_s: float | None
    """From a token to the next; None where others may have been answered meanwhile."""
    others_part: float
    """Part of the machine's CPUs that other programs used, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class ThroughputFacts:
    """How fast a model answers, and how fast it did when it was installed."""

    model: str
    device: str
    forecast_per_s: float
    """Tokens a second."""
    laps: tuple[Lap, ...]
    suspects: tuple[str, ...] = ()
    """What was seen of the GPUs that would explain slowness."""


def counted(exposition: str, model: str) -> Counted | None:
    """Return what a server's metrics say of a model, None where they do not tell.

    >>> counted("", "m") is None
    True
    """
    mine = f'model_name="{model}"'
    sums: Counter[str] = Counter()
    for line in exposition.splitlines():
        name, _, rest = line.partition("{")
        labels, _, value = rest.rpartition("} ")
        if mine in labels.split(","):
            sums[name.removeprefix("vllm:")] += float(value)  # type: ignore[assignment]
    if "generation_tokens_total" not in sums:
        return None
    return Counted(
        busy=int(sums["num_requests_running"] + sums["num_requests_waiting"]),
        ended=int(sums["request_success_total"]),
        answered=int(sums["request_generation_tokens_sum"]),
        generated=int(sums["generation_tokens_total"]),
        gaps=int(sums["inter_token_latency_seconds_count"]),
        gaps_s=sums["inter_token_latency_seconds_sum"],
    )


def forecast_of(smoke: Mapping[str, Any], precision: str, device: str | None) -> float | None:
    """Return the tokens a second that a smoke test measured, None where that was another model.

    Its quickest answer counts: the first ones find a cold machine.

    Args:
        smoke: its report, as the receipt keeps it.
        precision: that serves; one device and precision say nothing of another.
        device: that serves.

    >>> answers = [{"tokens": 9, "tokens_per_s": 380.3}, {"tokens": 6, "tokens_per_s": 499.3}]
    >>> smoke = {"precision": "nf4", "device": "cpu", "answers": answers}
    >>> forecast_of(smoke, "nf4", "cpu"), forecast_of(smoke, "int8", "cpu")
    (499.3, None)
    """
    if (smoke.get("precision"), smoke.get("device")) != (precision, device):
        return None
    long = (one for one in timed_answers(smoke) if one.get("tokens", 0) >= _LEAST_TOKENS)
    return max((answer["tokens_per_s"] for answer in long), default=None)


def timed_answers(smoke: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the answers of a smoke test that tell how fast they came."""
    for answer in smoke.get("answers", ()):
        if isinstance(answer, Mapping) and answer.get("tokens_per_s"):
            yield answer


def keeps_up(lap: Lap, forecast_per_s: float) -> bool:
    """Return whether answers came at about half of their forecast, or more.

    >>> [keeps_up(Lap(token_s=token_s, others_part=0), 30) for token_s in (0.06, 0.08)]
    [True, False]
    """
    return lap.token_s is not None and lap.token_s <= _SLOWER / forecast_per_s + _SERVING_S


def in_doubt(laps: Sequence[Lap], forecast_per_s: float) -> bool:
    """Return whether to ask once more before a model is called slow."""
    last = laps[-1]
    return len(laps) < _LAPS and last.token_s is not None and not keeps_up(last, forecast_per_s)


def suspects(gpus: GpusFacts, own: frozenset[int]) -> tuple[str, ...]:
    """Return what of the GPUs that a server computes on would explain slowness.

    Args:
        gpus: what the driver told.
        own: process numbers of the server's engines.
    """
    return tuple(
        text
        for gpu in gpus.gpus
        if own & {one.pid for one in gpu.processes}
        for text in (
            *(f"GPU {gpu.index} is slowed down: {reason}" for reason in gpu.throttles),
            *(
                f"process {one.pid} also computes on GPU {gpu.index}"
                for one in gpu.processes
                if one.pid not in own
            ),
        )
    )


def check_throughput(facts: ThroughputFacts) -> Iterator[Finding]:
    """Judge how fast a model answers; where others took part, nothing is judged."""
    then = f"the {figure(facts.forecast_per_s)} measured when it was installed"
    alone = [lap.token_s for lap in facts.laps if lap.token_s is not None]
    if any(keeps_up(lap, facts.forecast_per_s) for lap in facts.laps):
        yield Layer.ENGINE.ok(f"{facts.model}: {_speed(alone, facts)} of {then}")
    elif others := _others(facts):
        yield Layer.ENGINE.ok(f"{facts.model}: its speed is not compared with {then}: {others}")
    else:
        on_cpu = facts.device == "cpu"
        yield Layer.ENGINE.warn(
            f"{facts.model}: slow: {_speed(alone, facts)} of {then}",
            why="; ".join(facts.suspects) or (_CPU_WHY if on_cpu else _GPU_WHY),
            fix=_CPU_FIX if on_cpu else _GPU_FIX,
            code="slower-than-installed",
        )


def check_device(
    model: str, *, asked: str, device: str | None, measured_on: str | None, program: str
) -> Iterator[Finding]:
    """Judge where a model serves; nothing is said unless it fell back to the CPU by itself.

    Args:
        model: its name.
        asked: the device that its engine was told to take.
        device: the one it took.
        measured_on: the one of the smoke test.
        program: the installation's own command, for the hints.
    """
    if (asked, device, measured_on) == ("auto", "cpu", "cuda"):
        yield Layer.ENGINE.warn(
            f"{model}: serves on the CPU; when it was installed, it ran on a GPU",
            why="torch found no GPU when the engine started, and the CPU is many times slower",
            fix=f'nvidia-smi; echo "$CUDA_VISIBLE_DEVICES"; {program} stop; {program} serve',
            code="no-gpu-found",
        )


def _speed(alone: Sequence[float], facts: ThroughputFacts) -> str:
    per_s = 1 / min(alone)
    return f"{figure(per_s)} tokens/s, {100 * per_s / facts.forecast_per_s:.0f} %"


def _others(facts: ThroughputFacts) -> str:
    """Return who else took part in the answers; empty where nobody did."""
    part = max(lap.others_part for lap in facts.laps)
    if facts.device == "cpu" and part >= _BUSY_PART:
        return f"other programs used {100 * part:.0f} % of the CPUs"
    alone = all(lap.token_s is not None for lap in facts.laps)
    return "" if alone else "it may have been answering other requests"
