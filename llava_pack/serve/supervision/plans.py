"""What to serve, as values: from options or from an installation to engine processes."""

import os
import secrets
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_pack.checkpoint.kind import TowerChoice
from llava_pack.engine.fence.value import OFF, FenceMode
from llava_pack.engine.limits import Limits
from llava_pack.engine.loading.options import DEFAULT_SLOTS
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE, PictureMode
from llava_pack.engine.port import EngineInfo
from llava_pack.format.errors import ServeError
from llava_pack.format.known_answers import KnownAnswer, Reference
from llava_pack.format.manifest import Engine, Manifest
from llava_pack.profiles.launcher import KEY_VARIABLE
from llava_pack.profiles.profile import Launch, Node, Profile
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.engines.client import EngineAddress
from llava_pack.serve.run_state import TERM_S
from llava_pack.serve.subprocesses import EngineCommand
from llava_pack.serve.supervision.foreign import UNFENCED, launcher_argv

_DROPPED = (
    "_PROXY", "HF_ENDPOINT", "SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS",
    "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIALS", "_KEY", "_KEY_ID",
)  # fmt: skip
"""How names of variables end that programs of other kinds are told secrets by."""
_DRAIN_S = 1
_KEY_BYTES = 32


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


def engine_command(
    plan: EnginePlan,
    socket: Path,
    *,
    fence: FenceMode = "on",
    pycache: str | None = None,
) -> EngineCommand:
    """Return how the plan's process is started.

    Args:
        plan: the model.
        socket: where the engine listens.
        fence: whether one is raised around it, and whether it has to be whole.
        pycache: where Python keeps what it compiles, None for beside the sources: an engine reads
            it there, and writes nowhere.

    Raises:
        ServeError: a fence is required that the engine does not have.

    Source: llava_pack/engine/worker.py, its options.
    """
    check_fence(plan.engine, fence)
    if (profile := RUNTIMES[plan.engine].profile) is not None:
        return _foreign_command(plan, profile, socket, fence=fence, pycache=pycache)
    kept = ["-X", f"pycache_prefix={pycache}"] if pycache else []
    argv = [str(plan.python), "-I", "-X", "faulthandler", *kept, "-m", "llava_pack.engine.worker"]
    argv += ["--model-dir", str(plan.model_dir), "--socket", str(socket)]
    argv += ["--precision", plan.precision, "--device", plan.device, "--slots", str(plan.slots)]
    argv += ["--drain-s", str(_DRAIN_S)]
    if fence != "on":  # its own choice; engines of earlier versions know no fence
        argv += ["--fence", fence]
    if plan.picture_mode != DEFAULT_PICTURE_MODE:  # as well
        argv += ["--picture-mode", plan.picture_mode]
    for option, value in (
        ("--vision-tower", plan.vision_tower),
        ("--model-base", plan.model_base),
        ("--tower", plan.tower),
        ("--context-tokens", plan.context_tokens),
        ("--conv-mode", plan.conv_mode),
        ("--gpus", plan.gpus),
    ):
        if value is not None:
            argv += [option, str(value)]
    return EngineCommand(
        name=plan.name,
        argv=tuple(argv),
        address=EngineAddress(socket=socket),
        environment=engine_environment(os.environ),
    )


def planned_info(plan: EnginePlan) -> EngineInfo:
    """Return what is known of an engine of others, which tells little of itself."""
    return EngineInfo(
        model=plan.name,
        precision=plan.precision,
        device=plan.device,
        context_tokens=plan.context_tokens or 0,
        slots=plan.slots,
        conv_mode="",
        image_tokens=0,
        made_on=f"{plan.engine} {plan.version}",
        picture_mode=plan.picture_mode,
        engine=f"{RUNTIMES[plan.engine].title} {plan.version}",
    )


def _foreign_command(
    plan: EnginePlan, profile: Profile, socket: Path, *, fence: FenceMode, pycache: str | None
) -> EngineCommand:
    """Return how an engine of others is started; its arguments are made at each start."""
    key = secrets.token_urlsafe(_KEY_BYTES) if profile.keys else ""
    launch = Launch(
        version=plan.version.partition("+")[0],
        python=plan.python,
        model_dir=plan.model_dir,
        tokenizer_dir=plan.tokenizer_dir,
        name=plan.name,
        architecture=plan.architecture,
        precision=plan.precision,
        device=plan.device,
        context_tokens=plan.context_tokens,
        slots=plan.slots,
        pictures=plan.pictures,
        gpus=plan.gpus or 1,
        socket=socket if profile.way == "unix" else None,
        folder=socket.with_suffix(""),
        node=plan.node,
    )
    return EngineCommand(
        name=plan.name,
        argv=launcher_argv(plan.python, profile, pycache),
        address=EngineAddress(
            socket=socket,
            engine=plan.engine,
            key=key,
            info=planned_info(plan),
            tokens=plan.tokens,
            standing=OFF if fence == "off" else UNFENCED,
        ),
        environment=engine_environment(os.environ) | ({KEY_VARIABLE: key} if key else {}),
        term_s=plan.term_s,
        launch=launch,
    )


def engine_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an engine: no proxies, no secrets, nothing that fetches.

    >>> engine_environment({"HTTP_PROXY": "p", "https_proxy": "p", "HOME": "/h"})["HOME"]
    '/h'
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.upper().endswith(_DROPPED) and not name.startswith("OTEL_")
    }
    return {**kept, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
