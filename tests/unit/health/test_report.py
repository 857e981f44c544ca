"""Nagios's line and codes."""

import json
from typing import get_args

import pytest

from llava_pack.health.report import (
    HealthCode,
    Layer,
    Level,
    Metric,
    Report,
    in_order,
    nagios_line,
    to_json,
)
from tests.conftest import ROOT


def _report(*levels: Level, metrics: tuple[Metric, ...] = ()) -> Report:
    findings = tuple(getattr(Layer.API, level)(f"{level} text") for level in levels)
    return Report(findings=findings, metrics=metrics, took_s=1.23456)


@pytest.mark.parametrize(
    ("levels", "code"),
    [
        (("ok", "ok"), HealthCode.OK),
        (("ok", "warn"), HealthCode.WARNING),
        (("ok", "warn", "unknown"), HealthCode.UNKNOWN),
        (("ok", "unknown", "fail", "warn"), HealthCode.CRITICAL),
        ((), HealthCode.UNKNOWN),
    ],
)
def test_the_worst_finding_decides(levels: tuple[Level, ...], code: HealthCode) -> None:
    assert _report(*levels).code == code


def test_the_line_names_the_state_the_worst_and_the_figures() -> None:
    metrics = (
        Metric(name="ttft", value=0.2134567, unit="s", warn=2, critical=5),
        Metric(name="tokens_per_s", value=31.4),
    )
    line = nagios_line(_report("ok", "fail", "warn", "fail", metrics=metrics))
    assert line == "CRITICAL - api: fail text (and 1 more) | ttft=0.213s;2;5 tokens_per_s=31.4"


def test_the_line_is_one_line_with_one_bar() -> None:
    finding = Layer.API.fail("a|b\nc")
    line = nagios_line(Report(findings=(finding,), metrics=(), took_s=0))
    assert line == "CRITICAL - api: a/b c"


def test_layers_come_in_their_order() -> None:
    made = [layer.ok("") for layer in reversed(Layer)]
    assert [finding.layer for finding in in_order(made)] == list(Layer)


def test_json_has_units_in_its_names() -> None:
    values = to_json(_report("ok", metrics=(Metric(name="ttft", value=1.0, unit="s"),)))
    assert values["metrics"] == {"ttft_s": 1.0}
    assert values["took_s"] == 1.235
    assert values["status"] == "OK"


def test_the_schema_names_every_layer_and_level():
    schema = json.loads((ROOT / "docs/reference/health.schema.json").read_text())
    finding = schema["properties"]["findings"]["items"]["properties"]
    assert finding["layer"]["enum"] == list(Layer)
    assert set(finding["level"]["enum"]) == set(get_args(Level))
