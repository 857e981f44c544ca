"""What a model must answer before `serve` calls it ready: known answers of its bundle."""

import logging

from llava_pack.engine.known.questions import answer_of, question
from llava_pack.engine.measures import Trace
from llava_pack.format.errors import ServeError
from llava_pack.format.known_answers import KnownAnswer
from llava_pack.health.grading import judge
from llava_pack.health.known_answers import grade
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.engines.client import deltas_of
from llava_pack.serve.supervision.commands import planned_info
from llava_pack.serve.supervision.engine_process import Ask, Proof
from llava_pack.serve.supervision.plans import EnginePlan

_log = logging.getLogger(__name__)
_UNSEEN = Trace(prompt="", words="")


def proof_of(plan: EnginePlan) -> Proof | None:
    """Return the questions for a plan's model; None where its bundle knows no answer.

    One answer is enough to see that weights, tower, tokenizer and kernels of llava-pack's own
    engine belong together; the rest is asked by `health --deep`. An engine of others is asked all
    of them, which warms it up too: what it compiles late, nobody waits for.
    """
    if not plan.known_answers:
        return None
    return _own(plan) if RUNTIMES[plan.engine].profile is None else _of_others(plan)


def _own(plan: EnginePlan) -> Proof:
    known = plan.known_answers[0]

    async def prove(ask: Ask) -> None:
        deltas = await deltas_of(ask(question(known)))
        graded = grade(known, "".join(delta.text for delta in deltas))
        if not graded.ok:
            raise _wrong(plan, graded.why, "llava-pack health --deep")

    return prove


def _of_others(plan: EnginePlan) -> Proof:
    """Return the proof of an engine of others: words, and ids and odds as far as it tells them.

    What the words allow and the odds do not is told in the log, and graded by `health --deep`.
    """
    info = planned_info(plan)

    async def prove(ask: Ask) -> None:
        for known in plan.known_answers:
            request = question(known)
            seen = answer_of(info, request, await deltas_of(ask(request)), _UNSEEN)
            judged = judge(known, plan.references, seen)
            if judged.level == "broken":
                raise _wrong(plan, judged.why, _way_out(known))
            if judged.level == "degraded":
                _log.warning("%s: known answer %s: %s", plan.name, known.name, judged.why)

    return prove


def _wrong(plan: EnginePlan, why: str, hint: str) -> ServeError:
    return ServeError(
        f"its answer does not match the bundle's known answer: {why}",
        subject=plan.name,
        hint=hint,
    )


def _way_out(known: KnownAnswer) -> str:
    """Return the way out of one; engines of others were asked nothing when they were installed."""
    return (
        "if that is right for this model: install its bundle again with "
        f"--accept-answer {known.name}"
    )
