"""The checks of one running server: its engines, page, answers, memory, and what its log says."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava_pack.format.known_answers import KnownAnswer
from llava_pack.health.checks import check_answer, check_engine, check_fences, check_page
from llava_pack.health.facts import AnswerFacts, GpusFacts, MemoryFacts, ModelFacts
from llava_pack.health.knowledge import known_failures, recognise
from llava_pack.health.machine import check_memory
from llava_pack.health.report import Finding, Layer
from llava_pack.health.runtimes import Probe, serving_runtime
from llava_pack.health.server import Address, ServerProbe
from llava_pack.health.suite import AnswerSuite
from llava_pack.health.throughput import (
    ThroughputFacts,
    check_device,
    check_throughput,
    forecast_of,
    in_doubt,
    suspects,
)
from llava_pack.serve.run_state import RunState

if TYPE_CHECKING:
    from llava_pack.installation.installed import Installation

_LOG_BYTES = 64 * 1024


def address(server: RunState) -> Address:
    """Return where a running server is and how to be let in."""
    return Address(url=server.url, socket=server.socket, token=server.token, pid=server.pid)


def probe_of(server: RunState) -> Probe:
    """Return what asks a running server, whatever serves there."""
    other = serving_runtime(server.engine)
    return ServerProbe(address(server)) if other is None else other.probe(server)


class ServedChecks:
    """One run of the checks of a server.

    Args:
        server: that runs.
        installed: the models under the prefix.
        program: the installation's own command, for the hints.
        gpus: what the driver told, for the memory that engines take there.
        deep: ask everything that the bundles know.
    """

    def __init__(
        self,
        server: RunState,
        installed: Sequence["Installation"],
        program: str,
        gpus: GpusFacts,
        *,
        deep: bool,
    ) -> None:
        self._server = server
        self._installed = installed
        self._program = program
        self._gpus = gpus
        self._deep = deep
        self.answers: list[AnswerFacts] = []

    def run(self) -> Iterator[Finding]:
        """Yield what is found; where an engine is not well, also what its log shows."""
        with probe_of(self._server) as probe:
            facts = probe.facts()
            engines = check_engine(facts, self._program)
            yield from engines
            if any(finding.level == "fail" for finding in engines):
                yield from self._log()
            if facts.error:
                return
            yield from check_fences(facts, self._program)
            if facts.has_page:
                yield check_page(probe.page(), self._program)
            for name, model in facts.models.items():
                if model.phase == "ready":
                    yield from self._model(probe, name, model)

    def _model(self, probe: Probe, name: str, model: ModelFacts) -> Iterator[Finding]:
        item = self._item(name)
        forecast = forecast_of(item.smoke, model.precision, model.device) if item else None
        if forecast is not None and isinstance(probe, ServerProbe):
            yield from self._timed(probe, name, model, forecast)
        else:
            yield from self._asked(probe, name, model)
        yield from check_memory(self._memory(name, model))
        if item is not None:
            yield from self._device(item, name, model)
        if self._deep and item is not None and isinstance(probe, ServerProbe):
            from llava_pack.health.recordings import black_like, subject

            suite = AnswerSuite(probe, subject(item, model), black_like, self._program)
            yield from suite.run()

    def _asked(self, probe: Probe, name: str, model: ModelFacts) -> Iterator[Finding]:
        for known in self._known(name):
            answer = probe.answer(name, known, model.device)
            self.answers.append(answer)
            yield check_answer(answer, self._program)

    def _timed(
        self, probe: ServerProbe, name: str, model: ModelFacts, forecast_per_s: float
    ) -> Iterator[Finding]:
        """Ask a model while its server's counters are looked at; again where it seems slow."""
        from llava_pack.health.host import engine_pids
        from llava_pack.health.pace import Pace

        pace = Pace(probe, self._server.pid, name)
        asked = list(self._asked(probe, name, model))
        yield from asked
        laps = [pace.lap(len(asked))]
        while in_doubt(laps, forecast_per_s):
            probe.answer(name, self._known(name)[0], model.device)
            laps.append(pace.lap(1))
        yield from check_throughput(
            ThroughputFacts(
                model=name,
                device=model.device or "",
                forecast_per_s=forecast_per_s,
                laps=tuple(laps),
                suspects=suspects(self._gpus, engine_pids(self._server.pid)),
            )
        )

    def _device(self, item: "Installation", name: str, model: ModelFacts) -> Iterator[Finding]:
        """Say where an engine that could choose took another device than at the install."""
        from llava_pack.health.host import engine_device

        asked = engine_device(self._server.pid, name) if model.device == "cpu" else ""
        yield from check_device(
            name,
            asked=asked,
            device=model.device,
            measured_on=item.smoke.get("device"),
            program=self._program,
        )

    def _item(self, name: str) -> "Installation | None":
        return next((one for one in self._installed if one.manifest.model.name == name), None)

    def _known(self, name: str) -> tuple[KnownAnswer, ...]:
        """Return what to ask a model: one question, in a deep check all that its bundle knows."""
        item = self._item(name)
        known = item.right_answers if item is not None else ()
        if not known:
            return (KnownAnswer(name="any", picture_png="", prompt="Hello", contains=()),)
        return known if self._deep else known[:1]

    def _memory(self, name: str, model: ModelFacts) -> MemoryFacts:
        """Return what the model's engine takes, of the GPU where it computes there."""
        from llava_pack.health.host import engine_bytes, engine_pids

        item = self._item(name)
        forecast = item.manifest.floors.memory_bytes.get(model.precision) if item else None
        if model.device != "cuda":
            used = engine_bytes(self._server.pid, name)
            return MemoryFacts(model=name, where="memory", used_bytes=used, forecast_bytes=forecast)
        pids = engine_pids(self._server.pid)
        held = [
            process.used_bytes
            for gpu in self._gpus.gpus
            for process in gpu.processes
            if process.pid in pids and process.used_bytes is not None
        ]
        alone = len(self._server.models) == 1  # the driver tells processes, not models
        return MemoryFacts(
            model=name,
            where="GPU memory",
            used_bytes=sum(held) if held and alone else None,
            forecast_bytes=forecast,
        )

    def _log(self) -> Iterator[Finding]:
        """Yield the known failures that the end of the server's log shows."""
        path = Path(self._server.log) if self._server.log else None
        if path is None or not path.is_file():
            return
        with path.open("rb") as stream:
            stream.seek(max(path.stat().st_size - _LOG_BYTES, 0))
            text = stream.read().decode(errors="replace")
        for failure in recognise(text, known_failures()):
            advice = failure.advice["en"]
            yield Layer.ENGINE.warn(
                f"its log shows: {advice.title}", why=advice.cause, fix=advice.fix, code=failure.id
            )
