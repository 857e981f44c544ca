"""How a model is loaded, checked before anything of it is read."""

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.kind import TOWER_CHOICES, TowerChoice
from llava_pack.checkpoint.templates import check_conv_mode
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE, PICTURE_MODES, PictureMode
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
    tower: TowerChoice | None = None
    precision: str = "auto"
    device: str = "auto"
    slots: int = DEFAULT_SLOTS
    context_tokens: int | None = None
    conv_mode: str | None = None
    gpus: int | None = None
    picture_mode: PictureMode = DEFAULT_PICTURE_MODE

    def __post_init__(self) -> None:
        for name, choice, choices in (
            ("precision", self.precision, PRECISION_CHOICES),
            ("device", self.device, DEVICES),
            ("tower", self.tower or TOWER_CHOICES[0], TOWER_CHOICES),
            ("picture-mode", self.picture_mode, PICTURE_MODES),
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
            try:
                check_conv_mode(self.conv_mode)
            except UsageError as error:
                raise UsageError(error.message, subject="--conv-mode") from error


def add_arguments(parser: ArgumentParser, *, device: str) -> None:
    """Add what every process that loads a model is told of it.

    Args:
        parser: of the process; precision and slots are its own.
        device: where nobody chooses one.
    """
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--vision-tower", type=Path)
    parser.add_argument("--model-base", type=Path)
    parser.add_argument("--tower", choices=TOWER_CHOICES)
    parser.add_argument("--device", choices=DEVICES, default=device)
    parser.add_argument("--context-tokens", type=int)
    parser.add_argument("--conv-mode")
    parser.add_argument("--picture-mode", choices=PICTURE_MODES, default=DEFAULT_PICTURE_MODE)


def given_options(given: Namespace) -> dict[str, Any]:
    """Return the arguments that are fields of `Options`, by their names."""
    names = {field.name for field in fields(Options)}
    return {name: value for name, value in vars(given).items() if name in names}
