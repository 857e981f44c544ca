"""The options that load a model, as `serve`, `start`, `swap`, `chat` and `ask` all take them.

Every value is checked when it is made, before a command does anything, so a mistake has one message
and one exit code whichever command it is made with.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from llava_pack.checkpoint.kind import TowerChoice
from llava_pack.cli import console
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE, PictureMode
from llava_pack.format.errors import UsageError
from llava_pack.format.precision import FACTS, QUANTIZED
from llava_pack.target.environment import chosen, left_out

if TYPE_CHECKING:
    from llava_pack.installation.installed import Installation
    from llava_pack.serve.supervision.plans import EnginePlan, LoadOptions

_NO_CHOICE = (None, False, "auto", "")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a model is loaded, as it was typed; None leaves it to the bundle or the checkpoint.

    Raises:
        UsageError: a value is unknown or out of range, or two contradict each other.
    """

    model_path: Annotated[
        Path | None,
        typer.Option(
            help="A checkpoint's folder. Default: an installed model, or the running server."
        ),
    ] = None
    vision_tower: Annotated[
        Path | None,
        typer.Option(help="The vision tower's folder, if the checkpoint does not name it."),
    ] = None
    model_base: Annotated[
        Path | None, typer.Option(help="The base model of an adapter or a projector.")
    ] = None
    tower: Annotated[
        TowerChoice | None,
        typer.Option(help="The vision tower inside the checkpoint, or the one beside it."),
    ] = None
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, fp16, bf16, int8 or nf4. Default: the checkpoint's, or nf4."),
    ] = None
    load_4bit: Annotated[bool, typer.Option("--load-4bit", help="Same as --precision nf4.")] = False
    load_8bit: Annotated[bool, typer.Option("--load-8bit", help="Same as --precision int8.")] = (
        False
    )
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None
    slots: Annotated[int | None, typer.Option(help="Maximum concurrent requests, 1 to 256.")] = None
    context: Annotated[
        int | None,
        typer.Option(help="Context length, prompt and answer together, in tokens; at least 16."),
    ] = None
    conv_mode: Annotated[
        str | None, typer.Option(help="Conversation template, instead of the model's own.")
    ] = None
    gpus: Annotated[
        int | None, typer.Option(help="GPUs to spread the model over. Default: as planned.")
    ] = None
    picture_mode: Annotated[
        str | None,
        typer.Option(
            help="viewer: transparency on white, 16-bit grey scaled; llava: as LLaVA's own code. "
            "Default: viewer."
        ),
    ] = None

    def __post_init__(self) -> None:
        from llava_pack.engine.loading.options import Options

        if len(self._precisions) > 1:
            raise UsageError(
                f"more than one precision is given: {', '.join(sorted(self._precisions))}",
                subject=" and ".join(self._typed("precision", "load_4bit", "load_8bit")),
                hint="pass only one of --precision, --load-4bit and --load-8bit",
            )
        Options(**self.load.given)
        if self.model_path is None and (own := self._typed("vision_tower", "model_base", "tower")):
            raise UsageError(
                "an installed or running model already has its own",
                subject=" and ".join(own),
                hint="leave it out, or load a folder with --model-path",
            )

    def _typed(self, *names: str) -> list[str]:
        """Return the options of those fields that choose something."""
        chosen = (name for name in names if getattr(self, name) not in _NO_CHOICE)
        return [f"--{name.replace('_', '-')}" for name in chosen]

    @property
    def _precisions(self) -> set[str]:
        """Return every precision that is named."""
        bits = {4: self.load_4bit, 8: self.load_8bit}
        typed = {self.precision} if self.precision else set()
        return typed | {name for name in QUANTIZED if bits[FACTS[name].bits]}

    @property
    def load(self) -> "LoadOptions":
        """Return the same for what loads: absolute paths, and one precision at most."""
        from llava_pack.serve.supervision.plans import LoadOptions

        return LoadOptions(
            vision_tower=_absolute(self.vision_tower),
            model_base=_absolute(self.model_base),
            tower=self.tower,
            precision=next(iter(self._precisions), None),
            device=self.device or None,
            slots=self.slots,
            context_tokens=self.context,
            conv_mode=self.conv_mode,
            gpus=self.gpus,
            picture_mode=self.picture_mode,
        )

    @property
    def mode_of_pictures(self) -> PictureMode:
        """Return how pictures become RGB where they are decoded here."""
        return cast("PictureMode", self.picture_mode or DEFAULT_PICTURE_MODE)  # it was checked

    @property
    def folder(self) -> Path | None:
        """Return the checkpoint's folder, absolute; None where an installed model is meant."""
        return _absolute(self.model_path)

    def need_folder(self) -> Path | None:
        """Return the folder; None where a running server is used, which has loaded its own.

        Raises:
            UsageError: how to load is said, and not what.
        """
        if self.model_path is None and (names := self._typed(*vars(self))):
            raise UsageError(
                "cannot be used with a running server, which has already loaded its model",
                subject=", ".join(names),
                hint="add --model-path DIR, or leave it out to use the running server",
            )
        return self.folder

    def check_served(self) -> None:
        """Check what is for oneself alone, and not for a server that others ask too.

        Raises:
            UsageError: an option must not be served with.
        """
        if self.conv_mode == "raw":
            raise UsageError(
                "any client's text could become special tokens",
                subject="--conv-mode raw",
                hint="leave it out to use the model's own template; `chat` and `ask` accept raw "
                "with --model-path",
            )

    def installed(self, recipes: Sequence[str], prefix: Path | None) -> "Sequence[Installation]":
        """Return the installed models that are meant; none where a folder is.

        Raises:
            UsageError: a folder and installed models are meant together.
            InstallError: one is not installed.
            PreflightError: another account could change what would be served.
        """
        from llava_pack.installation.plans import installations

        if self.folder is None:
            return installations(prefix, recipes)
        if recipes:
            raise UsageError(
                "a folder and installed models cannot be served together",
                subject="--model-path",
                hint="leave out --model-path, or the models' names",
            )
        return ()

    def plans(self, items: "Sequence[Installation]") -> list["EnginePlan"]:
        """Return how each installed model is served, or the folder where there is none.

        Raises:
            IntegrityError: files do not look as they did when they were verified.
        """
        from llava_pack.installation.plans import plan_of
        from llava_pack.serve.supervision.plans import folder_plan

        if self.folder is not None:
            return [folder_plan(self.folder, self.load)]
        progress = console.progress()
        return [plan_of(item, self.load, progress) for item in items]


def tell_left_out() -> None:
    """Say which variables `bin/llava-pack` left out that could matter here, or should have kept."""
    if names := ", ".join(left_out(os.environ)):
        console.say(f"left out of the environment: {names}; --keep-env NAME keeps one")
    if names := ", ".join(sorted({*chosen(os.environ)} - os.environ.keys())):
        console.say(f"! to be kept in the environment, and not set: {names}")


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute()
