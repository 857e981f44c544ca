"""What to serve, as values: from options or from an installation."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.kind import TowerChoice
from llava_pack.engine.fence.value import FenceMode
from llava_pack.engine.limits import Limits
from llava_pack.engine.loading.options import DEFAULT_SLOTS
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE, PictureMode
from llava_pack.format.errors import ServeError
from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.format.manifest import Engine, Manifest
from llava_pack.profiles.profile import Node
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.run_state import TERM_S
from llava_pack.serve.supervision.foreign import UNFENCED


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """One model and how it is loaded.

    It is not checked here: the engine is of its generation's version, and knows what it can.
    """

    name: str
    """The name for `model` in the API."""
    model_dir: Path
    """Absolute."""
    python: Path
    """The interpreter of its own environment."""
    engine: Engine = "transformers"
    """What serves it."""
    version: str = ""
    """Of an engine of others."""
    architecture: str = ""
    """As `config.json` names it, for an engine of others."""
    tokenizer_dir: Path | None = None
    """Absolute; where an engine of others finds tokenizer and processor, None for in the model."""
    tokens: tuple[str, ...] = ()
    """The special tokens of the model as texts, for an engine of others."""
    pictures: int = Limits().count
    """At most in one request."""
    vision_tower: Path | None = None
    """Absolute; None lets the checkpoint say."""
    model_base: Path | None = None
    """Absolute; what an adapter or a projector was trained on."""
    tower: TowerChoice | None = None
    """Which one, where the one inside a checkpoint is another than the one beside it."""
    precision: str = "auto"
    """`auto` is what a checkpoint was quantized to ahead, else nf4."""
    device: str = "auto"
    slots: int = DEFAULT_SLOTS
    context_tokens: int | None = None
    conv_mode: str | None = None
    gpus: int | None = None
    """How many may share its layers; None for all that are visible."""
    picture_mode: PictureMode = DEFAULT_PICTURE_MODE
    known_answers: tuple[KnownAnswer, ...] = ()
    """What it must answer before it counts as ready."""
    references: tuple[Reference, ...] = ()
    """What was recorded of them; for engines of others, which are held against it."""
    node: Node | None = None
    """Its place among several machines, None for alone."""

    @property
    def term_s(self) -> float:
        """Seconds that its engine gets when it is told to end."""
        profile = RUNTIMES[self.engine].profile
        return TERM_S if profile is None else profile.term_s


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What the command line said; None leaves it to the bundle, or to the defaults."""

    vision_tower: Path | None = None
    model_base: Path | None = None
    tower: TowerChoice | None = None
    precision: str | None = None
    device: str | None = None
    slots: int | None = None
    context_tokens: int | None = None
    conv_mode: str | None = None
    gpus: int | None = None
    picture_mode: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Return what was said, by its name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def folder_plan(model_dir: Path, options: LoadOptions) -> EnginePlan:
    """Return how a bare folder is served, by the running interpreter.

    Args:
        model_dir: absolute; its name becomes the model's.
        options: the tower may be absent: then the checkpoint says where it is.
    """
    return EnginePlan(
        name=model_dir.name, model_dir=model_dir, python=Path(sys.executable), **options.given
    )


def installed_plan(
    manifest: Manifest,
    options: LoadOptions,
    *,
    model_dir: Path,
    vision_tower: Path | None,
    model_base: Path | None = None,
    python: Path,
) -> EnginePlan:
    """Return how an installed model is served: as its bundle says, but for what was asked for.

    Args:
        manifest: of the bundle.
        options: what the command line said.
        model_dir: where the model was installed.
        vision_tower: where its tower was.
        model_base: where the base of an adapter or a projector was.
        python: the interpreter of its generation.
    """
    profile = manifest.serving
    as_planned = (options.precision, options.slots, options.context_tokens) == (None, None, None)
    bundled = EnginePlan(
        name=manifest.model.name,
        model_dir=model_dir,
        vision_tower=vision_tower,
        model_base=model_base,
        precision=profile.precision,
        device=profile.device,
        slots=profile.slots,
        context_tokens=profile.context_tokens,
        conv_mode=manifest.model.conv_mode,
        python=python,
        gpus=profile.gpus if as_planned else None,
        known_answers=manifest.known_answers,
    )
    return replace(bundled, **options.given)


def longest_term_s(plans: Iterable[EnginePlan]) -> float:
    """Return how long the engines of a run may take to end, all told at once."""
    return max((plan.term_s for plan in plans), default=TERM_S)


def check_fence(engine: Engine, fence: FenceMode) -> None:
    """Refuse a fence that an engine of others does not have.

    Raises:
        ServeError: it is required.
    """
    runtime = RUNTIMES[engine]
    if fence == "required" and runtime.profile is not None:
        raise ServeError(
            f"a complete fence is required, but that of {runtime.title} is {UNFENCED}",
            subject="--require-fence",
            hint="leave it out, or build the bundle with llava-pack's engine",
        )
