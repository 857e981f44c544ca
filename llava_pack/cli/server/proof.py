"""What a model must answer before `serve` calls it ready: a known answer of its bundle."""

from contextlib import aclosing

from llava_pack.engine.known.questions import question
from llava_pack.engine.port import Delta, Failed
from llava_pack.format.errors import ServeError
from llava_pack.format.known_answers import KnownAnswer
from llava_pack.health.known_answers import grade
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.supervision.engine_process import Ask, Proof
from llava_pack.serve.supervision.plans import EnginePlan


def proof_of(plan: EnginePlan) -> Proof | None:
    """Return the question for a plan's model; None where its bundle knows no answer.

    One answer is enough to see that weights, tower, tokenizer and kernels belong together; the
    rest is asked by `health --deep`.
    """
    if not plan.known_answers:
        return None
    known = plan.known_answers[0]

    async def prove(ask: Ask) -> None:
        text = ""
        async with aclosing(ask(question(known))) as events:
            async for event in events:
                if isinstance(event, Failed):
                    raise event.error()
                text += event.text if isinstance(event, Delta) else ""
        if not (graded := grade(known, text)).ok:
            raise ServeError(
                f"its answer does not match the bundle's known answer: {graded.why}",
                subject=plan.name,
                hint=_hint(plan, known),
            )

    return prove


def _hint(plan: EnginePlan, known: KnownAnswer) -> str:
    """Return the way out; engines of others were asked nothing when they were installed."""
    if RUNTIMES[plan.engine].profile is None:
        return "llava-pack health --deep"
    return (
        "if that is right for this model: install its bundle again with "
        f"--accept-answer {known.name}"
    )
