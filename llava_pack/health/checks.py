"""The rules: from facts to findings, each with its cause and its fix. Pure."""

from collections.abc import Sequence

from llava_pack.health.facts import (
    AnswerFacts,
    EnvironmentFacts,
    FenceFacts,
    InstalledFacts,
    PageFacts,
    ServerFacts,
)
from llava_pack.health.report import Finding, Layer, Metric

TTFT_WARN_S = 2.0
TTFT_CRITICAL_S = 5.0
_SHOWN = 5
_SWITCHED_OFF = "--no-fence"


def check_installed(facts: InstalledFacts) -> Finding:
    """Judge the files of the active generation."""
    name = f"{facts.recipe} generation {facts.generation}"
    how = ", every byte as verified" if facts.deep else " look as they did when verified"
    if facts.touched and not facts.changed:
        return Layer.INTEGRITY.warn(
            f"{name}: other links, owner or permissions than verified: {_some(facts.touched)}",
            why="probably harmless, but only hashing every file again can tell",
            fix=f"{facts.program} health --deep, as the account that installed it",
        )
    if not facts.changed:
        return Layer.INTEGRITY.ok(f"{name}: {facts.files} files{how}")
    if not facts.deep:
        return Layer.INTEGRITY.fail(
            f"{name}: changed since they were verified: {_some(facts.changed)}",
            why="the files being served may not be those that were verified",
            fix=f"{facts.program} health --deep",
        )
    return Layer.INTEGRITY.fail(
        f"{name}: not the bytes that were verified: {_some(facts.changed)}",
        why="the model may answer wrongly, or not load",
        fix=f"{facts.program} install BUNDLE --expect ID",
    )


def check_environment(facts: EnvironmentFacts, program: str) -> list[Finding]:
    """Judge an environment against the bundle's wheels.

    Args:
        facts: of the environment.
        program: the installation's own command, for the hints.
    """
    fix = f"{program} install BUNDLE --expect ID"
    if not facts.python:
        return [
            Layer.ENVIRONMENT.fail(
                "the environment's Python does not run",
                why="nothing in it can be started",
                fix=fix,
            )
        ]
    findings = []
    if wrong := _differences(facts):
        findings.append(
            Layer.ENVIRONMENT.fail(
                f"packages differ from the lock: {_some(wrong)}",
                why="only the locked versions were tested together",
                fix=fix,
            )
        )
    if facts.changed:
        findings.append(
            Layer.ENVIRONMENT.fail(
                f"files of packages are not as installed: {_some(facts.changed)}",
                why="the code that runs is not the code that was installed",
                fix=fix,
            )
        )
    findings += [
        Layer.ENVIRONMENT.fail(
            f"{module} cannot be imported: {said}", why="the engine or the page needs it", fix=fix
        )
        for module, said in facts.failed_imports.items()
    ]
    text = f"Python {facts.python}, {len(facts.wanted)} packages as locked"
    return findings or [Layer.ENVIRONMENT.ok(text)]


def check_engine(facts: ServerFacts, program: str) -> list[Finding]:
    """Judge whether the engines work, by their progress."""
    if facts.error:
        return [
            Layer.ENGINE.fail(
                f"the server, process {facts.pid}, does not respond: {facts.error}",
                why="the process exists, but it hangs",
                fix=f"kill {facts.pid}; {program} serve",
            )
        ]
    return [_engine(name, facts, program) for name in facts.models]


def _engine(name: str, facts: ServerFacts, program: str) -> Finding:
    model = facts.models[name]
    if model.stalled:
        return Layer.ENGINE.fail(
            f"{name}: no step for {model.stalled_s:.0f} s with {model.running} running",
            why="its requests will not be answered",
            fix=f"kill {facts.pid}; {program} serve",
        )
    if model.phase == "ready":
        load = f"{model.running} running, {model.waiting} waiting"
        where = f"{model.device}, {model.engine}" if model.engine else model.device
        return Layer.ENGINE.ok(f"{name}: ready on {where}, {load}")
    if model.phase == "restarting":
        return Layer.ENGINE.fail(
            f"{name}: restarting: {model.detail}",
            why="its engine exited; the cause is in this line",
            fix=f"{program} health --wait-ready 60",
        )
    return Layer.ENGINE.warn(
        f"{name}: {model.phase} {model.detail}".rstrip(),
        why="it does not accept requests yet",
        fix=f"{program} health --wait-ready 600",
    )


def check_fences(facts: ServerFacts, program: str) -> list[Finding]:
    """Judge the fences around the gateway and each engine that is ready, or LLaVA's programs.

    Args:
        facts: of a server that answered.
        program: the installation's own command, for the hints.
    """
    engines = {name: one.fence for name, one in facts.models.items() if one.phase == "ready"}
    told = {} if facts.fence is None else {"gateway": facts.fence}
    # Each program of LLaVA's tells by itself: its model is no engine's, and tells nothing.
    around = {**told, **engines} if facts.programs is None else facts.programs or engines
    return [_fence(name, fence, program) for name, fence in around.items()]


def _fence(name: str, fence: FenceFacts | None, program: str) -> Finding:
    if fence is not None and fence.whole:
        return Layer.FENCE.ok(f"{name}: {fence.said}")
    if fence is None:
        text, fix = "reports no fence: its engine is of an earlier version", "install BUNDLE"
    elif _SWITCHED_OFF in fence.said:
        text, fix = fence.said, f"serve, without {_SWITCHED_OFF}"
    else:
        text, fix = fence.said, "explain no-fence"
    return Layer.FENCE.warn(
        f"{name}: {text}",
        why="an exploit would reach every file of the server's account, and the network",
        fix=f"{program} {fix}",
        code="" if fence is None or _SWITCHED_OFF in fence.said else "no-fence",
    )


def check_page(facts: PageFacts, program: str) -> Finding:
    """Judge the page."""
    if facts.status == 200 and facts.is_page:
        return Layer.PAGE.ok("the page is served")
    said = facts.error or f"HTTP {facts.status}" + ("" if facts.is_page else ", not the page")
    return Layer.PAGE.fail(
        f"the page does not load: {said}",
        why="browsers cannot show it",
        fix=f"stop the server, then {program} serve",
    )


def check_answer(facts: AnswerFacts, program: str) -> Finding:
    """Judge one known answer through the API."""
    if facts.error:
        return Layer.API.fail(
            f"{facts.model}: no answer: {facts.error}",
            why="clients get the same",
            fix=f"{program} health --deep",
        )
    if not facts.grade.ok:
        return Layer.API.fail(
            f"{facts.model}: {facts.grade.why}",
            why="the model no longer answers as it did when it was packed",
            fix=f"{program} health --deep",
        )
    text = f"{facts.model}: known answers match; {facts.ttft_s:.2f} s to the first token"
    if facts.ttft_s <= TTFT_WARN_S:
        return Layer.API.ok(text)
    # a CPU may be slow without being broken
    broken = facts.ttft_s > TTFT_CRITICAL_S and facts.device == "cuda"
    return (Layer.API.fail if broken else Layer.API.warn)(
        text,
        why="slower than users expect",
        fix="use a lower precision or a smaller model: --load-4bit",
    )


def metrics_of(answers: Sequence[AnswerFacts]) -> tuple[Metric, ...]:
    """Return the figures of the slowest answer."""
    timed = [answer for answer in answers if not answer.error]
    if not timed:
        return ()
    ttft_s = max(answer.ttft_s for answer in timed)
    rates = [answer.tokens_per_s for answer in timed if answer.tokens_per_s is not None]
    ttft = Metric(name="ttft", value=ttft_s, unit="s", warn=TTFT_WARN_S, critical=TTFT_CRITICAL_S)
    return (ttft, *([Metric(name="tokens_per_s", value=min(rates))] if rates else ()))


def _differences(facts: EnvironmentFacts) -> list[str]:
    return [
        f"{name} {facts.found.get(name, 'absent')}, locked {version}"
        for name, version in sorted(facts.wanted.items())
        if facts.found.get(name) != version
    ]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
