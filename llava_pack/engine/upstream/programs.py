"""The three programs of `llava.serve`, as values: command lines, ports and environment. Pure.

Source: llava-torch 1.2.2.post1, llava/serve/{controller,model_worker,gradio_web_server}.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llava_pack.engine.fence.value import FenceMode
from llava_pack.engine.upstream.bounds import FENCE_VARIABLE, Bounds
from llava_pack.format.errors import UsageError
from llava_pack.format.precision import BY_QUALITY, FACTS, QUANTIZED

LOOPBACK = "127.0.0.1"
USER = "llava"
"""Who logs in to the page; the password is the token of the start."""
TOKEN_VARIABLE = "LLAVA_PACK_UPSTREAM_TOKEN"  # noqa: S105 - the variable's name
_LAUNCHER = "llava_pack.engine.upstream.launcher"
_DROPPED = ("_PROXY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT")

CPU_PRECISION = "fp16"
"""LLaVA's own loader knows no other without a GPU."""
Device = Literal["cuda", "cpu"]
Role = Literal["controller", "worker", "page"]


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the three listen, on loopback."""

    controller: int
    worker: int
    page: int

    @property
    def numbers(self) -> tuple[int, ...]:
        """The three of them."""
        return self.controller, self.worker, self.page

    def url(self, role: Role) -> str:
        """Return the root of one program."""
        return f"http://{LOOPBACK}:{getattr(self, role)}"


@dataclass(frozen=True, kw_only=True)
class UpstreamModel:
    """One model and how LLaVA's worker loads it."""

    name: str
    """Name of its folder, which LLaVA's code parses."""
    model_dir: Path
    """Absolute; its config.json names the tower by an absolute path."""
    files: tuple[Path, ...]
    """What of the model is read: its folder, the tower's, what links in them lead to."""
    precision: str
    device: Device
    slots: int
    """Requests that the worker takes at once."""
    python: Path
    """The interpreter of its own environment."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program and how it is started."""

    role: Role
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    """Private, where it stands: logs, conversations and pictures come to lie there."""


def check_loading(precision: str, device: Device) -> None:
    """Refuse what LLaVA's loader cannot do.

    Raises:
        UsageError: it has no such precision, or quantizes only on a GPU.
    """
    if precision not in BY_QUALITY:
        raise UsageError(
            f"LLaVA's own loader supports {', '.join(BY_QUALITY)}, got {precision}",
            subject="--precision",
        )
    if device == "cpu" and precision != CPU_PRECISION:
        raise UsageError(
            f"LLaVA's own loader quantizes only on a GPU, got {precision} on the CPU",
            subject="--precision",
            hint="leave --precision out: fp16 runs on a CPU, slowly",
        )


def chosen_device(device: str) -> Device:
    """Return where a worker runs: LLaVA's own `cuda` unless the CPU is meant."""
    return "cpu" if device == "cpu" else "cuda"


def programs(
    model: UpstreamModel,
    ports: Ports,
    *,
    token: str,
    environment: Mapping[str, str],
    home: Path,
    fence: FenceMode = "on",
) -> tuple[Program, ...]:
    """Return controller, worker and page, in the order in which they have to be started.

    Args:
        model: what is served.
        ports: where they listen.
        token: guards all three; empty for none.
        environment: of the running process.
        home: a private folder; each program gets one in it for what it and its libraries write.
        fence: whether one is raised around each, and whether it has to be whole.

    Raises:
        UsageError: LLaVA's loader cannot load it so.
    """
    check_loading(model.precision, model.device)
    quantized = model.precision in QUANTIZED
    controller, worker = ports.url("controller"), ports.url("worker")
    options: dict[Role, tuple[str, ...]] = {
        "controller": ("--dispatch-method", "shortest_queue"),
        "worker": (
            *("--controller-address", controller, "--worker-address", worker),
            *("--model-path", str(model.model_dir), "--model-name", model.name),
            *("--device", model.device, "--limit-model-concurrency", str(model.slots)),
            *([f"--load-{FACTS[model.precision].bits}bit"] if quantized else ()),
        ),
        # "once" calls gradio with an argument that gradio 4 does not have.
        "page": ("--controller-url", controller, "--model-list-mode", "reload"),
    }
    return tuple(
        Program(
            role=role,
            argv=(
                *(str(model.python), "-I", "-m", _LAUNCHER, role),
                *("--host", LOOPBACK, "--port", str(getattr(ports, role))),
                *given,
            ),
            environment={
                **private_environment(environment, home / role),
                TOKEN_VARIABLE: token,
                FENCE_VARIABLE: str(_bounds(role, model, ports, fence)),
            },
            directory=home / role,
        )
        for role, given in options.items()
    )


def _bounds(role: Role, model: UpstreamModel, ports: Ports, fence: FenceMode) -> Bounds:
    """Return what a program is let through: the worker alone has to do with model and GPU."""
    if role != "worker":
        return Bounds(mode=fence, ports=ports.numbers)
    gpu = model.device == "cuda"
    return Bounds(mode=fence, ports=ports.numbers, files=model.files, gpu=gpu)


def private_environment(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return the environment of the programs: no proxy, no token, nobody told, no Hub.

    >>> given = private_environment({"https_proxy": "p", "PATH": "/bin"}, Path("/run/x"))
    >>> given["no_proxy"], given["GRADIO_ANALYTICS_ENABLED"], "https_proxy" in given
    ('localhost,127.0.0.1', 'False', False)
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.upper().endswith(_DROPPED) and not name.startswith(("OTEL_", "GRADIO_"))
    }
    local = f"localhost,{LOOPBACK}"  # httpx 0.24 cannot read an IPv6 address here
    return {
        **kept,
        "no_proxy": local,
        "NO_PROXY": local,
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SHARE": "False",
        "GRADIO_TEMP_DIR": str(home / "uploads"),
        "MPLCONFIGDIR": str(home / "matplotlib"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }
