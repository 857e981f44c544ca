"""The page's status line: each model with its precision and queue, and how fast an answer came."""

from collections.abc import Iterable
from dataclasses import dataclass

from llava_pack.format.text import Language
from llava_pack.serve.models import PHASE_WORDS, Served
from llava_pack.serve.page_words import STATUS


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


def speed_line(speed: Speed | None, language: Language) -> str:
    """Return how fast an answer came, in words; nothing before its first token."""
    if speed is None or not speed.tokens:
        return ""
    said = STATUS[language]["speed"]
    return said.format(tokens=speed.tokens, rate=speed.rate, first=speed.first_s)


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
