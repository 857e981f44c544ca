"""What is wrong with a checkpoint: every finding at once, worst first."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llava_pack.format.errors import CheckpointError


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
    fatal = [defect for defect in defects if defect.level == "fail"]
    if not fatal:
        return
    hints = dict.fromkeys(defect.hint for defect in fatal if defect.hint)
    if len(fatal) == 1:
        message = str(fatal[0])
    else:
        lines = "".join(f"\n  - {defect}" for defect in fatal)
        message = f"{len(fatal)} defects:{lines}"
    raise CheckpointError(message, subject=subject, hint="; ".join(hints))
