"""How a runtime beside llava-pack's own engine serves, for `serve`, `health` and the smoke test.

Each is a `ServingRuntime` in a room of its own, which `llava_pack.runtimes` names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self

from llava_pack.engine.fence.value import FenceMode
from llava_pack.format.known_answers import KnownAnswer
from llava_pack.format.manifest import Engine, Manifest
from llava_pack.format.progress import Progress
from llava_pack.health.facts import AnswerFacts, PageFacts, ServerFacts
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.run_state import RunState
from llava_pack.serve.supervision.plans import EnginePlan


class Probe(Protocol):
    """Asks one running server; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def facts(self) -> ServerFacts:
        """Return what the server says of itself."""

    def page(self) -> PageFacts:
        """Return what the page answers to a person who has logged in."""

    def answer(self, model: str, known: KnownAnswer, device: str | None) -> AnswerFacts:
        """Return how a model answers a known question."""


@dataclass(frozen=True, kw_only=True)
class RuntimePlan:
    """Everything that one run of such a runtime needs to know.

    Attributes:
        engine: the model and how it is loaded.
        state: what `health` is told; its port is the page's, and free.
        state_directory: where it is told.
        fence: whether one is raised around each program, and whether it has to be whole.
    """

    engine: EnginePlan
    state: RunState
    state_directory: Path
    fence: FenceMode = "on"


@dataclass(frozen=True, kw_only=True)
class ServingRuntime:
    """What a runtime does on the target.

    Attributes:
        honoured: parameters of `serve` that reach it; what else is given is refused,
        fixed: unless it is given as what the runtime does anyway, by parameter.
        device: where it runs, given what is asked for.
        serve: serves until told to end, and returns the exit code; announces once that it answers.
        fields: of a run that serves, for programs: beside what every run tells.
        lines: of a run that serves, for people.
        smoke: the report of a smoke test: of a manifest, a model's folder, precision and device.
        probe: asks a run.
    """

    honoured: frozenset[str]
    fixed: Mapping[str, object]
    device: Callable[[str], str]
    serve: Callable[[RuntimePlan, Callable[[RunState], None], Progress], int]
    fields: Callable[[RunState], Mapping[str, str]]
    lines: Callable[[RunState], Sequence[str]]
    smoke: Callable[[Manifest, Path, str, str], Mapping[str, Any]]
    probe: Callable[[RunState], Probe]


def serving_runtime(engine: Engine) -> ServingRuntime | None:
    """Return how a runtime serves, None for llava-pack's own engine."""
    room = RUNTIMES[engine].serving
    if room is None:
        return None
    runtime: ServingRuntime = import_module(room).RUNTIME
    return runtime
