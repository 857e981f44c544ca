"""What health says: findings with their cause and their cure, and Nagios's line. Pure.

Source: Monitoring Plugins Development Guidelines, "Plugin Output for Nagios" and "Performance
data".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum, auto
from typing import Literal


class HealthCode(IntEnum):
    """Exit codes of `health`, as Nagios reads them."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


Level = Literal["ok", "warn", "fail", "unknown"]
_CODES = {
    "ok": HealthCode.OK,
    "warn": HealthCode.WARNING,
    "fail": HealthCode.CRITICAL,
    "unknown": HealthCode.UNKNOWN,
}
_WORST_FIRST: tuple[Level, ...] = ("fail", "unknown", "warn", "ok")


class Layer(StrEnum):
    """Where something was found, in the order in which a report shows it; it makes findings."""

    INTEGRITY = auto()
    ENVIRONMENT = auto()
    GPU = auto()
    HOST = auto()
    PROCESSES = auto()
    ENGINE = auto()
    FENCE = auto()
    PAGE = auto()
    API = auto()
    ANSWERS = auto()
    TUNNEL = auto()
    SILENCE = auto()

    def ok(self, text: str) -> "Finding":
        """Return that all is well."""
        return Finding(layer=self, level="ok", text=text)

    def warn(self, text: str, *, why: str = "", fix: str = "", code: str = "") -> "Finding":
        """Return what is not as it should be, and serves."""
        return Finding(layer=self, level="warn", text=text, why=why, fix=fix, code=code)

    def fail(self, text: str, *, why: str = "", fix: str = "", code: str = "") -> "Finding":
        """Return what keeps people from their answers."""
        return Finding(layer=self, level="fail", text=text, why=why, fix=fix, code=code)

    def unknown(self, text: str, *, fix: str = "") -> "Finding":
        """Return what could not be looked at."""
        return Finding(layer=self, level="unknown", text=text, fix=fix)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check: what was found, why it matters, and the command that fixes it."""

    layer: Layer
    level: Level
    text: str
    """What was found, one line."""
    why: str = ""
    """What follows from it; empty where all is well."""
    fix: str = ""
    """The command to run; empty where all is well."""
    code: str = ""
    """What `llava-pack explain` takes, where more is known."""


def figure(value: float) -> str:
    """Return a number as people write it: three digits, or all before the point.

    >>> figure(14083.2), figure(60.41), figure(0.21349)
    ('14083', '60.4', '0.213')
    """
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure of Nagios's performance data."""

    name: str
    value: float
    unit: str = ""
    warn: float | None = None
    critical: float | None = None

    @property
    def key(self) -> str:
        """The name with its unit, for JSON."""
        return f"{self.name}_{self.unit}" if self.unit else self.name

    def __str__(self) -> str:
        limits = [f"{limit:g}" if limit is not None else "" for limit in (self.warn, self.critical)]
        return ";".join([f"{self.name}={figure(self.value)}{self.unit}", *limits]).rstrip(";")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that was found."""

    findings: tuple[Finding, ...]
    metrics: tuple[Metric, ...]
    took_s: float

    @property
    def level(self) -> Level:
        """The worst that was found; nothing found is unknown."""
        found = {finding.level for finding in self.findings}
        return next((level for level in _WORST_FIRST if level in found), "unknown")

    @property
    def code(self) -> HealthCode:
        """The exit code."""
        return _CODES[self.level]


def nagios_line(report: Report) -> str:
    """Return the one line that Nagios reads: the state, the worst finding, the figures.

    >>> fine = Layer.API.ok("answers")
    >>> nagios_line(Report(findings=(fine,), metrics=(Metric(name="n", value=1),), took_s=0.1))
    'OK - 1 check passed | n=1'
    """
    bad = [finding for finding in report.findings if finding.level == report.level != "ok"]
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        text = f"{bad[0].layer}: {bad[0].text}{more}"
    else:
        count = len(report.findings)
        text = f"{count} {'check' if count == 1 else 'checks'} passed"
    figures = " ".join(str(metric) for metric in report.metrics)
    text = text.replace("|", "/").replace("\n", " ")
    return f"{report.code.name} - {text}" + (f" | {figures}" if figures else "")


def to_json(report: Report) -> dict[str, object]:
    """Return the report as JSON values, without schema and kind."""
    return {
        "status": report.code.name,
        "exit_code": int(report.code),
        "findings": [
            {
                "layer": finding.layer,
                "level": finding.level,
                "text": finding.text,
                "why": finding.why,
                "fix": finding.fix,
                "code": finding.code,
            }
            for finding in report.findings
        ],
        "metrics": {metric.key: metric.value for metric in report.metrics},
        "took_s": round(report.took_s, 3),
    }


def in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return findings by layer, each layer's in the order in which they were made."""
    return tuple(sorted(findings, key=lambda finding: list(Layer).index(finding.layer)))
