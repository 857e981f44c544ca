"""How a model is loaded, checked before anything of it is read."""

from dataclasses import dataclass
from pathlib import Path

from llava_pack.engine import templates
from llava_pack.format.errors import UsageError

PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8", "nf4")
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
        for name, value, known in (
            ("precision", self.precision, PRECISIONS),
            ("device", self.device, DEVICES),
        ):
            if value not in known:
                raise UsageError(f"unknown {name} {value!r}, expected one of: {', '.join(known)}")
        if not 1 <= self.slots <= _MAX_SLOTS:
            raise UsageError(f"slots must be from 1 to {_MAX_SLOTS}, got {self.slots}")
        if self.gpus is not None and self.gpus < 1:
            raise UsageError(f"gpus must be at least 1, got {self.gpus}")
        if self.context_tokens is not None and self.context_tokens < _MIN_CONTEXT:
            got = self.context_tokens
            raise UsageError(f"context_tokens must be at least {_MIN_CONTEXT}, got {got}")
        if self.conv_mode is not None:
            templates.template(self.conv_mode)
