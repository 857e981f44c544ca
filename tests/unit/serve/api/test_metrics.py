"""`/metrics`: numbers as they are."""

from collections import Counter
from types import SimpleNamespace

from llava_pack.engine.stats import Stats
from llava_pack.serve.admission.refusals import Refusals
from llava_pack.serve.api.metrics import exposition
from llava_pack.serve.counters import Tally
from llava_pack.serve.port import Status, Vitals


def test_large_counters_are_told_to_the_last_digit():
    served = SimpleNamespace(
        name="m",
        status=Status(phase="ready"),
        stats=Stats(steps=7_654_321, generated_tokens=123_456_789),
        vitals=Vitals(steps=0, running=0, waiting=0, stalled_s=0.25, bound_s=60.0),
        tally=Tally(ended=Counter(stop=1)),
        replicas=(),
    )
    refusals = Refusals()
    refusals.answered(401)
    refusals.connection("header_timeouts")
    lines = exposition({"m": served}, refusals).splitlines()
    assert 'llava_pack:responses_refused_total{status="401"} 1' in lines
    assert 'llava_pack:connections_ended_total{reason="header_timeouts"} 1' in lines
    assert 'vllm:generation_tokens_total{model_name="m",engine="0"} 123456789' in lines
    assert 'llava_pack:engine_steps_total{model_name="m",engine="0"} 7654321' in lines
    assert 'llava_pack:engine_stalled_seconds{model_name="m",engine="0"} 0.25' in lines
