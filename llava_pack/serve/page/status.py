"""The page's status line: each model with its precision and queue, and how fast an answer came."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llava_pack.format.text import Language
from llava_pack.serve.page.words import STATUS
from llava_pack.serve.port import PHASE_WORDS, Served


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How an answer came, as the page saw it."""

    tokens: int
    """Tokens of the answer so far."""
    first_s: float
    """From the question to the first token."""
    rest_s: float
    """From the first token to the last one."""

    @property
    def rate(self) -> float:
        """Tokens per second after the first one; 0 where there was only one.

        >>> Speed(tokens=11, first_s=0.5, rest_s=2.0).rate
        5.0
        """
        return (self.tokens - 1) / self.rest_s if self.tokens > 1 and self.rest_s > 0 else 0.0


def status_lines(models: Iterable[Served], language: Language) -> str:
    """Return a line of Markdown for each model."""
    return "  \n".join(_status_line(model, language) for model in models)


def answer_lines(speed: Speed | None, only_colours: Sequence[str], language: Language) -> str:
    """Return what a person should know of an answer: how fast it came, and what was not seen.

    Args:
        speed: nothing is said of it before the first token.
        only_colours: for each picture, the one colour that it has; empty where it has more.
        language: the page's.
    """
    words = STATUS[language]
    lines = [
        words["blank"].format(number=number, colour=colour)
        for number, colour in enumerate(only_colours, 1)
        if colour
    ]
    if speed is not None and speed.tokens:
        facts = {"tokens": speed.tokens, "rate": speed.rate, "first": speed.first_s}
        lines.append(words["speed"].format(**facts))
    return "  \n".join(lines)


def _status_line(model: Served, language: Language) -> str:
    words = STATUS[language]
    status, info = model.status, model.info
    facts = [PHASE_WORDS[language][status.phase]]
    if status.phase == "loading" and status.total_bytes:
        facts[0] += f" {100 * status.done_bytes // status.total_bytes} %"
    if info is not None and status.phase == "ready":
        vitals = model.vitals
        facts = [
            words["on"].format(precision=info.precision, device=info.device),
            words["context"].format(tokens=info.context_tokens),
            words["queue"].format(running=vitals.running, waiting=vitals.waiting),
        ]
    return " · ".join([f"**{model.name}**", *facts])
