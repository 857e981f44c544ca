"""What is wrong with a checkpoint: every finding at once, worst first."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llava_pack.format.errors import CheckpointError

_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class Defect:
    """One finding: `fail` stops packing and loading, `warn` is told and goes on."""

    level: Literal["warn", "fail"]
    subject: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}" if self.subject else self.message


def defect_of(error: CheckpointError) -> Defect:
    """Return a failure as a finding, so that the others can be looked for."""
    return Defect("fail", error.subject, error.message, error.hint)


def refuse(defects: Iterable[Defect], *, subject: str) -> None:
    """Raise one error that tells every failing defect; warnings alone pass.

    Raises:
        CheckpointError: there is at least one failing defect.
    """
    fatal = list(dict.fromkeys(defect for defect in defects if defect.level == "fail"))
    if not fatal:
        return
    hints = dict.fromkeys(defect.hint for defect in fatal if defect.hint)
    if len(fatal) == 1:
        message = str(fatal[0])
    else:
        numbered = (f"({number}) {defect}" for number, defect in enumerate(fatal, start=1))
        message = f"{len(fatal)} defects: {'; '.join(numbered)}"
    raise CheckpointError(message, subject=subject, hint="; ".join(hints))


def shown(value: object) -> str:
    """Return a value from outside for a message: short, whatever it is.

    >>> shown("x" * 1000)
    "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…"
    """
    if isinstance(value, (dict, list)):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
