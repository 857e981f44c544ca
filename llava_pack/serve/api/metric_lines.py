"""The lines of Prometheus text that all metrics have in common. Pure.

Source: prometheus.io, "Text-based format" 0.0.4.
"""

from collections.abc import Iterator

from llava_pack.serve.port import Served

REASONS = ("stop", "length", "abort", "error")
"""How a request ends."""


def head(name: str, kind: str, about: str) -> Iterator[str]:
    """Yield what stands before the values of a metric."""
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"


def labels_of(model: Served) -> str:
    """Return the labels of a model."""
    return f'model_name="{escaped(model.name)}",engine="0"'


def escaped(text: str) -> str:
    """Return a text as the value of a label."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
