"""How the process of a model's engine is started, from its plan."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from llava_pack.engine.fence.value import OFF, FenceMode
from llava_pack.engine.picture_mode import DEFAULT_PICTURE_MODE
from llava_pack.engine.port import EngineInfo
from llava_pack.profiles.launcher import KEY_VARIABLE
from llava_pack.profiles.profile import Launch, Profile
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.engines.client import EngineAddress
from llava_pack.serve.subprocesses import EngineCommand
from llava_pack.serve.supervision.foreign import UNFENCED, launcher_argv
from llava_pack.serve.supervision.plans import EnginePlan, check_fence

_DROPPED = (
    "_PROXY", "HF_ENDPOINT", "SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS",
    "TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIALS", "_KEY", "_KEY_ID",
)  # fmt: skip
"""How names of variables end that programs of other kinds are told secrets by."""
_DRAIN_S = 1
_KEY_BYTES = 32


def engine_command(
    plan: EnginePlan,
    socket: Path,
    *,
    fence: FenceMode = "on",
    pycache: str | None = None,
    compiled: Path | None = None,
) -> EngineCommand:
    """Return how the plan's process is started.

    Args:
        plan: the model.
        socket: where the engine listens.
        fence: whether one is raised around it, and whether it has to be whole.
        pycache: where Python keeps what it compiles, None for beside the sources: an engine reads
            it there, and writes nowhere.
        compiled: where engines of others may keep what they compile; None for nowhere.

    Raises:
        ServeError: a fence is required that the engine does not have.

    Source: llava_pack/engine/worker.py, its options.
    """
    check_fence(plan.engine, fence)
    if (profile := RUNTIMES[plan.engine].profile) is not None:
        address = _foreign_address(plan, profile, socket, fence)
        return _foreign_command(plan, profile, address, pycache, compiled)
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


def compiled_path(run_directory: Path) -> Path:
    """Return where engines of others keep what they compile, among what a run writes.

    >>> compiled_path(Path("/opt/llava-pack/run")).as_posix()
    '/opt/llava-pack/run/compiled'
    """
    return run_directory / "compiled"


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


def _foreign_address(
    plan: EnginePlan, profile: Profile, socket: Path, fence: FenceMode
) -> EngineAddress:
    """Return where an engine of others is asked, by a key of its own where it takes one."""
    return EngineAddress(
        socket=socket,
        engine=plan.engine,
        key=secrets.token_urlsafe(_KEY_BYTES) if profile.keys else "",
        info=planned_info(plan),
        tokens=plan.tokens,
        standing=OFF if fence == "off" else UNFENCED,
    )


def _foreign_command(
    plan: EnginePlan,
    profile: Profile,
    address: EngineAddress,
    pycache: str | None,
    compiled: Path | None,
) -> EngineCommand:
    """Return how an engine of others is started; its arguments are made at each start."""
    folder = address.socket.with_suffix("")
    secret = {KEY_VARIABLE: address.key} if address.key else {}
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
        socket=address.socket if profile.way == "unix" else None,
        folder=folder,
        compiled=(compiled or folder / "compiled") / f"{plan.engine}-{plan.version}",
        node=plan.node,
    )
    return EngineCommand(
        name=plan.name,
        argv=launcher_argv(plan.python, profile, pycache),
        address=address,
        environment=engine_environment(os.environ) | secret,
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
