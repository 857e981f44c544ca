"""One run of all health checks over a prefix and whatever serves on this machine."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_pack.format.errors import PackError
from llava_pack.format.progress import Progress
from llava_pack.format.text import human_bytes
from llava_pack.health.checks import check_environment, check_installed, metrics_of
from llava_pack.health.facts import AnswerFacts, GpusFacts, InstalledFacts
from llava_pack.health.gpu import probe_gpus
from llava_pack.health.knowledge import Failure, known_failures, recognise
from llava_pack.health.machine import (
    check_gpus,
    check_host,
    check_processes,
    check_silence,
    check_unit,
    check_variables,
    untested,
)
from llava_pack.health.probes import environments, probe_environment
from llava_pack.health.report import Finding, Layer, Metric, in_order
from llava_pack.health.suite import question_count
from llava_pack.health.throughput import timed_answers
from llava_pack.installation.integrity import read_again
from llava_pack.installation.unit import astray
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.nodes.standing import RUNNING, node_line
from llava_pack.serve.run_state import RunState, running, serving
from llava_pack.serve.supervision.listener import PORT, holder_of
from llava_pack.target import receipt
from llava_pack.target.environment import left_out
from llava_pack.target.generations import recipes
from llava_pack.target.next_step import next_step

if TYPE_CHECKING:
    from llava_pack.installation.installed import Installation

_HASHED = ("model", "wheels")
_HASH_BYTES_PER_S = 1e9
_IMPORTS_S = 15
_ANSWER_S = 2


class Examination:
    """One run of all checks; a probe that breaks is a finding, never the end.

    What needs packages is imported in its own check: one that is missing leaves the others.
    """

    def __init__(self, prefix: Path, progress: Progress, *, deep: bool) -> None:
        self._prefix = prefix
        self._progress = progress
        self._deep = deep
        self._installed: list[Installation] = []
        self._answers: list[AnswerFacts] = []
        self._gpu_facts = GpusFacts()
        self.findings: list[Finding] = []

    @property
    def _program(self) -> str:
        program = self._prefix / "bin" / "llava-pack"
        return str(program) if program.exists() else "llava-pack"

    def run(self) -> None:
        """Do every check."""
        servers = serving()
        names = recipes(self._prefix)
        for name in names:
            self._contained(Layer.INTEGRITY, partial(self._open, name))
        if self._deep and self._installed:
            self._contained(Layer.INTEGRITY, partial(self._say_how_long, servers))
        for item in self._installed:
            self._contained(Layer.INTEGRITY, partial(self._integrity, item))
            self._contained(Layer.ENVIRONMENT, partial(self._environment, item))
        if not names:
            self.findings.append(self._nothing_installed(servers))
        self._contained(Layer.ENVIRONMENT, partial(self._variables, servers))
        self._contained(Layer.GPU, self._gpus)
        self._contained(Layer.HOST, self._host)
        self._contained(Layer.PROCESSES, partial(self._processes, servers))
        if servers:
            self._contained(Layer.ENGINE, partial(self._served, self._ours(servers)))
            self._contained(Layer.SILENCE, partial(self._silence, servers))
        elif not (nodes := [one for one in running() if one.follower]):
            self.findings.append(self._nothing_runs())
        else:
            self.findings += [_as_node(one) for one in nodes]

    def record(self) -> None:
        """Keep what the served models answer, for later checks to be held against."""
        for name in recipes(self._prefix):
            self._contained(Layer.INTEGRITY, partial(self._open, name))
        servers = serving()
        if servers:
            self._contained(Layer.ANSWERS, partial(self._record, self._ours(servers)))
        else:
            self.findings.append(self._nothing_runs())

    def _record(self, server: RunState) -> Iterator[Finding]:
        from llava_pack.health.recordings import record_here
        from llava_pack.health.served_checks import address
        from llava_pack.health.server import ServerProbe

        with ServerProbe(address(server)) as probe:
            served = [one for one in self._installed if one.manifest.model.name in server.models]
            for item in served:
                kept = record_here(item, probe)
                text = f"{item.recipe}: {len(kept)} answers recorded, in {kept[0].precision}"
                yield Layer.ANSWERS.ok(f"{text} on {kept[0].made_on}")
        if not served:
            yield Layer.ANSWERS.fail(
                f"nothing recorded: {', '.join(server.models)} is not installed here",
                why="the questions come from an installed bundle",
                fix=f"{self._program} serve, or pass --prefix",
            )

    def explained(self) -> tuple[Finding, ...]:
        """Return the findings in order, those that show a known failure with its code."""
        failures = known_failures()
        return tuple(_explained(finding, failures) for finding in in_order(self.findings))

    def metrics(self) -> tuple[Metric, ...]:
        """Return the figures of the answers."""
        return metrics_of(self._answers)

    def _contained(self, layer: Layer, check: Callable[[], Iterator[Finding]]) -> None:
        try:
            self.findings += check()
        except PackError as error:
            self.findings.append(layer.fail(str(error), fix=error.hint))
        except Exception as error:  # noqa: BLE001 - the boundary of one check
            text = f"could not be checked: {type(error).__name__}: {error}"
            self.findings.append(layer.unknown(text))

    def _open(self, recipe: str) -> Iterator[Finding]:
        """Find an installed model; nothing is wrong where it can be found."""
        from llava_pack.installation.installed import installed

        self._installed.append(installed(self._prefix, recipe))
        yield from ()

    def _ours(self, servers: Sequence[RunState]) -> RunState:
        """Return the server of what is installed here, else the one that was started last."""
        ids = {item.bundle_id for item in self._installed}
        return next((server for server in servers if server.bundle_id in ids), servers[0])

    def _nothing_installed(self, servers: Sequence[RunState]) -> Finding:
        if servers and servers[0].bundle_id is None:
            text = "served from a folder; nothing is installed to compare it with"
            return Layer.INTEGRITY.ok(text)
        return Layer.INTEGRITY.fail(
            f"nothing is installed under {self._prefix}",
            why="there is nothing to serve",
            fix="sh install.sh --bundle DIR --expect ID, or pass --prefix",
        )

    def _say_how_long(self, servers: Sequence[RunState]) -> Iterator[Finding]:
        """Say ahead what a deep check does and about how long that takes."""
        files = (item.manifest.under(name) for item in self._installed for name in _HASHED)
        hashed = sum(entry.size_bytes for entries in files for entry in entries)
        served = self._ours(servers).models if servers else ()
        asked = [
            item
            for item in self._installed
            if item.manifest.model.name in served
            and item.manifest.known_answers
            and RUNTIMES[item.manifest.serving.engine].gateway
        ]
        about_s = hashed / _HASH_BYTES_PER_S + _IMPORTS_S * len(self._installed)
        about_s += sum(_question_count(item) * _answer_s(item.smoke) for item in asked)
        questions = sum(map(_question_count, asked))
        parts = [f"{human_bytes(hashed)} to hash", "libraries to import"]
        parts += [f"{questions} questions to ask"] if questions else []
        self._progress.note(f"deep: {', '.join(parts)}: about {about_s:.0f} s")
        yield from ()

    def _integrity(self, item: "Installation") -> Iterator[Finding]:
        entries = item.manifest.under("model")
        changed: tuple[str, ...]
        touched: tuple[str, ...] = ()
        if self._deep:
            changed = read_again(item, self._progress)
        else:
            changed, touched = receipt.broken(item.root, ctime=False), receipt.broken(item.root)
        yield check_installed(
            InstalledFacts(
                recipe=item.recipe,
                generation=item.number,
                program=self._program,
                files=len(entries),
                size_bytes=sum(entry.size_bytes for entry in entries),
                changed=changed,
                touched=touched,
                deep=self._deep,
            )
        )

    def _environment(self, item: "Installation") -> Iterator[Finding]:
        for python, wanted in environments(item).items():
            facts = probe_environment(python, wanted, deep=self._deep)
            yield from check_environment(facts, self._program)

    def _served(self, server: RunState) -> Iterator[Finding]:
        from llava_pack.health.served_checks import ServedChecks

        checks = ServedChecks(
            server, self._installed, self._program, self._gpu_facts, deep=self._deep
        )
        yield from checks.run()
        self._answers += checks.answers

    def _variables(self, servers: Sequence[RunState]) -> Iterator[Finding]:
        tested = {item.manifest.model.name: item.kept for item in self._installed}
        kept = {
            name
            for server in servers
            for name in untested(server.asked.get("keep_env", "").split(), server.models, tested)
        }
        yield from check_variables(left_out(os.environ), sorted(kept))

    def _gpus(self) -> Iterator[Finding]:
        wanted = any(item.manifest.floors.driver is not None for item in self._installed)
        self._gpu_facts = probe_gpus()
        yield from check_gpus(self._gpu_facts, wanted=wanted)

    def _host(self) -> Iterator[Finding]:
        from llava_pack.health.host import probe_host

        releases = [item.manifest.release for item in self._installed]
        facts = probe_host(self._prefix, max(releases, default=None), os.environ)
        yield from check_host(facts)

    def _processes(self, servers: Sequence[RunState]) -> Iterator[Finding]:
        from llava_pack.health.host import probe_processes

        holder = "" if servers else holder_of(PORT, ())
        facts = probe_processes((server.pid for server in servers), holder)
        yield from check_processes(facts, self._program, PORT)
        for unit, started in astray():
            yield check_unit(str(unit), started, self._program)

    def _silence(self, servers: Sequence[RunState]) -> Iterator[Finding]:
        from llava_pack.health.host import probe_silence

        for server in servers:
            yield check_silence(probe_silence(server.pid, (server.port,), server.network))

    def _nothing_runs(self) -> Finding:
        return Layer.ENGINE.fail(
            "no server of this installation is running",
            why="no server responds",
            fix=next_step(self._prefix).command,
        )


def _as_node(state: RunState) -> Finding:
    """Return how a node of another machine's server is."""
    text = node_line(state)
    if state.follower["phase"] == RUNNING:
        return Layer.ENGINE.ok(text)
    return Layer.ENGINE.warn(
        text, why="the model is not whole", fix="llava-pack status, on the head"
    )


def _question_count(item: "Installation") -> int:
    return question_count(len(item.manifest.known_answers), item.manifest.serving.slots)


def _answer_s(smoke: Mapping[str, Any]) -> float:
    """Return the seconds that the longest answer of a smoke test took, a guess if it tells none."""
    took = [
        answer["ttft_s"] + answer["tokens"] / answer["tokens_per_s"]
        for answer in timed_answers(smoke)
        if "ttft_s" in answer
    ]
    return float(max(took, default=_ANSWER_S))


def _explained(finding: Finding, failures: Sequence[Failure]) -> Finding:
    if finding.level == "ok" or finding.code:
        return finding
    found = recognise(finding.text, failures)
    return replace(finding, code=found[0].id) if found else finding
