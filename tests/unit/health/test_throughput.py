"""Tokens a second against the smoke test's: what is called slow, and what is not judged."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from llava_pack.health.facts import GpuFacts, GpuProcess, GpusFacts
from llava_pack.health.knowledge import known_failures
from llava_pack.health.report import Finding
from llava_pack.health.throughput import (
    Counted,
    Lap,
    ThroughputFacts,
    check_device,
    check_throughput,
    counted,
    forecast_of,
    in_doubt,
    suspects,
)

BEFORE = Counted(busy=0, ended=3, answered=30, generated=36, gaps=30, gaps_s=1.0)
AFTER = Counted(busy=0, ended=4, answered=39, generated=45, gaps=38, gaps_s=1.4)
SMOKE = {
    "precision": "nf4",
    "device": "cuda",
    "answers": [
        {"tokens": 9, "tokens_per_s": 20.0},
        {"tokens": 6, "tokens_per_s": 30.0},
        {"tokens": 3, "tokens_per_s": 90.0},
        {"tokens": 7, "tokens_per_s": None},
        "as the oldest receipts kept it",
    ],
}
EXPOSITION = """\
# HELP vllm:num_requests_running Requests currently running.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m",engine="0"} 1
vllm:num_requests_waiting{model_name="m",engine="0"} 2
vllm:generation_tokens_total{model_name="m",engine="0"} 123456789
vllm:generation_tokens_total{model_name="mm",engine="0"} 5
vllm:inter_token_latency_seconds_bucket{model_name="m",engine="0",le="+Inf"} 7
vllm:inter_token_latency_seconds_sum{model_name="m",engine="0"} 0.25
vllm:inter_token_latency_seconds_count{model_name="m",engine="0"} 7
vllm:request_generation_tokens_sum{model_name="m",engine="0"} 8
vllm:request_success_total{model_name="m",engine="0",finished_reason="stop"} 2
vllm:request_success_total{model_name="m",engine="0",finished_reason="abort"} 3
"""


def quick(token_s: float | None, others_part: float = 0.0) -> Lap:
    return Lap(token_s=token_s, others_part=others_part)


def checked(*laps: Lap, device: str = "cuda", suspects: tuple[str, ...] = ()) -> Finding:
    (finding,) = check_throughput(
        ThroughputFacts(model="m", device=device, forecast_per_s=50.0, laps=laps, suspects=suspects)
    )
    return finding


def test_the_metrics_of_one_model_are_read() -> None:
    assert counted(EXPOSITION, "m") == Counted(
        busy=3, ended=5, answered=8, generated=123456789, gaps=7, gaps_s=0.25
    )
    assert counted(EXPOSITION, "another") is None


@pytest.mark.parametrize(
    ("change", "settled"),
    [({}, True), ({"generated": 44}, False), ({"busy": 1}, False)],
)
def test_the_server_has_looked_once_every_token_was_counted(
    change: Mapping[str, int], *, settled: bool
) -> None:
    assert replace(AFTER, **change).settled(BEFORE) is settled


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"busy": 1}, {}),
        ({}, {"busy": 1}),
        ({}, {"ended": 5}),
        ({}, {"generated": 46}),
        ({}, {"generated": 44}),
        ({}, {"gaps": 30}),
    ],
)
def test_answers_beside_others_are_not_timed(
    before: Mapping[str, int], after: Mapping[str, int]
) -> None:
    assert AFTER.token_s(BEFORE, 1) == pytest.approx(0.05)
    assert replace(AFTER, **after).token_s(replace(BEFORE, **before), 1) is None


@pytest.mark.parametrize(
    ("smoke", "forecast"),
    [
        (SMOKE, 30.0),
        ({**SMOKE, "precision": "int8"}, None),
        ({**SMOKE, "device": "cpu"}, None),
        ({**SMOKE, "answers": []}, None),
        ({**SMOKE, "answers": SMOKE["answers"][2:]}, None),
        ({}, None),
    ],
)
def test_the_forecast_is_the_quickest_answer_of_the_same_precision_and_device(
    smoke: Mapping[str, Any], forecast: float | None
) -> None:
    assert forecast_of(smoke, "nf4", "cuda") == forecast


@pytest.mark.parametrize(
    ("laps", "again"),
    [
        ((quick(0.02),), False),
        ((quick(0.1),), True),
        ((quick(0.1), quick(0.1)), True),
        ((quick(0.1), quick(0.02)), False),
        ((quick(0.1), quick(None)), False),
        ((quick(0.1),) * 3, False),
    ],
)
def test_only_what_seems_slow_is_asked_again_and_twice_at_most(
    laps: tuple[Lap, ...], *, again: bool
) -> None:
    assert in_doubt(laps, 50.0) is again


@pytest.mark.parametrize(
    ("laps", "device", "level", "text"),
    [
        ((quick(0.02),), "cuda", "ok", "m: 50 tokens/s, 100 % of the 50 measured"),
        ((quick(0.04),), "cuda", "ok", "m: 25 tokens/s, 50 % of"),
        ((quick(0.1), quick(0.1), quick(0.03)), "cuda", "ok", "m: 33.3 tokens/s, 67 % of"),
        ((quick(0.1),) * 3, "cuda", "warn", "m: slow: 10 tokens/s, 20 % of the 50 measured"),
        ((quick(0.1, 0.9),) * 3, "cuda", "warn", "m: slow: 10 tokens/s"),
        ((quick(0.1, 0.2),) * 3, "cpu", "warn", "m: slow: 10 tokens/s"),
        ((quick(0.1, 0.9),) * 3, "cpu", "ok", "other programs used 90 % of the CPUs"),
        ((quick(None, 0.9),), "cpu", "ok", "other programs used 90 % of the CPUs"),
        ((quick(None),), "cuda", "ok", "it may have been answering other requests"),
        ((quick(0.1), quick(None)), "cuda", "ok", "it may have been answering other requests"),
    ],
)
def test_slow_is_what_was_slow_alone_and_each_time(
    laps: tuple[Lap, ...], device: str, level: str, text: str
) -> None:
    finding = checked(*laps, device=device)
    assert (finding.layer, finding.level) == ("engine", level)
    assert text in finding.text
    assert bool(finding.fix) == bool(finding.code) == (level == "warn")


def test_what_serving_itself_costs_is_not_slowness() -> None:
    """A tiny model makes 500 tokens a second alone, and 200 with a gateway beside it."""
    facts = ThroughputFacts(model="m", device="cpu", forecast_per_s=500.0, laps=(quick(0.005),))
    assert [one.level for one in check_throughput(facts)] == ["ok"]


def test_slowness_names_what_is_seen_and_what_mends_it() -> None:
    laps = (quick(0.1),) * 3
    seen = checked(*laps, suspects=("GPU 0 is slowed down: too hot",))
    assert seen.why == "GPU 0 is slowed down: too hot"
    assert "another process" in checked(*laps).why
    assert checked(*laps).fix.startswith("nvidia-smi -q -d ")
    assert "fewer CPUs" in checked(*laps, device="cpu").why
    assert "cpu.max" in checked(*laps, device="cpu").fix
    assert seen.code in {failure.id for failure in known_failures()}


def test_gpus_that_the_server_does_not_use_are_not_suspected() -> None:
    ours, theirs = (GpuProcess(pid=pid, used_bytes=None) for pid in (7, 8))
    gpu = GpuFacts(
        index=0,
        name="A",
        total_bytes=None,
        free_bytes=None,
        temperature_c=None,
        slowdown_c=None,
        throttles=("too hot",),
        ecc_uncorrected=None,
        remap_pending=None,
        remap_failed=None,
        processes=(ours, theirs),
    )
    other = replace(gpu, index=1, processes=(theirs,))
    assert suspects(GpusFacts(gpus=(gpu, other)), frozenset({7})) == (
        "GPU 0 is slowed down: too hot",
        "process 8 also computes on GPU 0",
    )


@pytest.mark.parametrize(
    ("asked", "device", "measured_on", "levels"),
    [
        ("auto", "cpu", "cuda", ["warn"]),
        ("cpu", "cpu", "cuda", []),  # somebody wanted it so
        ("", "cpu", "cuda", []),
        ("auto", "cuda", "cuda", []),
        ("auto", "cpu", "cpu", []),
        ("auto", "cpu", None, []),
    ],
)
def test_a_model_that_fell_back_to_the_cpu_is_told(
    asked: str, device: str, measured_on: str | None, levels: list[str]
) -> None:
    found = list(
        check_device("m", asked=asked, device=device, measured_on=measured_on, program="llava-pack")
    )
    assert [finding.level for finding in found] == levels
    assert all(finding.code == "no-gpu-found" and finding.fix for finding in found)
