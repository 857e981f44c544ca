"""How a model is loaded, checked before anything of it is read."""

from dataclasses import dataclass
from pathlib import Path

from llava_pack.engine.inputs import templates
from llava_pack.format.errors import UsageError
from llava_pack.format.precision import PRECISION_CHOICES

DEVICES = ("auto", "cpu", "cuda", "mps")
DEFAULT_SLOTS = 8
_MAX_SLOTS = 256
_MIN_CONTEXT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a model is loaded; None leaves the choice to the checkpoint.

    Raises:
        UsageError: a value is unknown or out of range.
    """

    vision_tower: Path | None = None
    model_base: Path | None = None
    precision: str = "auto"
    device: str = "auto"
    slots: int = DEFAULT_SLOTS
    context_tokens: int | None = None
    conv_mode: str | None = None
    gpus: int | None = None

    def __post_init__(self) -> None:
        for name, choice, choices in (
            ("precision", self.precision, PRECISION_CHOICES),
            ("device", self.device, DEVICES),
        ):
            if choice not in choices:
                raise UsageError(
                    f"expected one of {', '.join(choices)}, got {choice}", subject=f"--{name}"
                )
        if not 1 <= self.slots <= _MAX_SLOTS:
            raise UsageError(f"expected 1 to {_MAX_SLOTS}, got {self.slots}", subject="--slots")
        if self.gpus is not None and self.gpus < 1:
            raise UsageError(f"expected at least 1, got {self.gpus}", subject="--gpus")
        if self.context_tokens is not None and self.context_tokens < _MIN_CONTEXT:
            tokens = self.context_tokens
            raise UsageError(
                f"expected at least {_MIN_CONTEXT} tokens, got {tokens}", subject="--context"
            )
        if self.conv_mode is not None:
            templates.template(self.conv_mode)
