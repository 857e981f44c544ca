"""Counters of engines of others, held against Prometheus's own reader."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from llava_pack.engine.stats import Stats
from llava_pack.profiles.profile import MetricNames
from llava_pack.serve.engines.engine_metrics import stats_of

NAMES = MetricNames(
    steps="e:steps_count",
    running="e:running",
    waiting="e:waiting",
    kv_usage="e:usage",
    prompt_tokens="e:prompt_total",
    generated_tokens="e:generated_total",
    first_token_s="e:ttft",
    step_tokens="e:steps",
)


@given(
    labels=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3, unique=True),
    running=st.integers(0, 1000),
    waits=st.lists(st.floats(0, 100), max_size=20),
)
def test_what_an_engine_exposes_is_read_as_prometheus_reads_it(labels, running, waits):
    registry = CollectorRegistry()
    gauge = Gauge("e:running", "r", ["model"], registry=registry)
    Gauge("e:running_others", "not this one", registry=registry).set(7)
    counter = Counter("e:prompt", "p", ["model"], registry=registry)
    ttft = Histogram("e:ttft", "t", ["model"], buckets=(0.1, 1.0, 30.0), registry=registry)
    steps = Histogram("e:steps", "s", registry=registry)
    for label in labels:
        gauge.labels(label).set(running)
        counter.labels(label).inc(running)
        for wait in waits:
            ttft.labels(label).observe(wait)
            steps.observe(1)
    text = generate_latest(registry).decode()
    stats = stats_of(text, NAMES, Stats())
    told = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            if "le" not in one.labels:
                told[one.name] = told.get(one.name, 0.0) + one.value
    assert stats.running == told["e:running"] == running * len(labels)
    assert stats.prompt_tokens == told["e:prompt_total"]
    assert stats.steps == told.get("e:steps_count", 0)
    assert stats.first_token_s.count == told.get("e:ttft_count", 0)
    assert abs(stats.first_token_s.total - told.get("e:ttft_sum", 0)) < 1e-6


def test_buckets_go_to_ours_and_what_is_not_told_stays():
    text = (
        'e:ttft_bucket{le="0.1"} 1\ne:ttft_bucket{le="9"} 3\ne:ttft_bucket{le="+Inf"} 4\n'
        "e:usage 0.5\ne:steps_count NaN\ne:running garbage\n"
    )
    before = Stats(generated_tokens=5)
    stats = stats_of(text, NAMES, before)
    counts = dict(zip(stats.first_token_s.bounds, stats.first_token_s.counts, strict=False))
    assert (counts[0.1], counts[10.0], stats.first_token_s.counts[-1]) == (1, 2, 1)
    assert (stats.work.kv_usage, stats.steps, stats.running) == (0.5, 0, 0)
    assert stats.generated_tokens == 5


@given(st.text(max_size=200))
def test_no_text_is_an_error(text):
    assert stats_of(text, NAMES, Stats()).running == 0 or "e:running" in text
