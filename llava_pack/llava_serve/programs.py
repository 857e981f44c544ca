"""The three programs of `llava.serve`, as values: command lines, ports and environment. Pure.

Source: llava-torch 1.2.2.post1, llava/serve/{controller,model_worker,gradio_web_server}.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from llava_pack.engine.fence.value import FenceMode
from llava_pack.format.errors import UsageError
from llava_pack.format.precision import BY_QUALITY, FACTS, QUANTIZED
from llava_pack.llava_serve.bounds import FENCE_VARIABLE, Bounds
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.subprocesses import ProcessCommand
from llava_pack.serve.supervision.plans import EnginePlan

LOOPBACK = "127.0.0.1"
USER = "llava"
"""Who logs in to the page; the password is the token of the start."""
TOKEN_VARIABLE = "LLAVA_PACK_UPSTREAM_TOKEN"  # noqa: S105 - the variable's name
_LAUNCHER = "llava_pack.llava_serve.launcher"
_CPU_PRECISION = RUNTIMES["upstream"].cpu_precision
_DROPPED = ("_PROXY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT")

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
class Program(ProcessCommand):
    """One program and how it is started.

    Where it stands is private: logs, conversations and pictures come to lie there.
    """

    role: Role


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
    if device == "cpu" and precision != _CPU_PRECISION:
        raise UsageError(
            f"LLaVA's own loader quantizes only on a GPU, got {precision} on the CPU",
            subject="--precision",
            hint=f"leave --precision out: {_CPU_PRECISION} runs on a CPU, slowly",
        )


def chosen_device(device: str) -> Device:
    """Return where a worker runs: LLaVA's own `cuda` unless the CPU is meant."""
    return "cpu" if device == "cpu" else "cuda"


def programs(
    plan: EnginePlan,
    ports: Ports,
    *,
    files: tuple[Path, ...],
    token: str,
    environment: Mapping[str, str],
    home: Path,
    fence: FenceMode = "on",
) -> tuple[Program, ...]:
    """Return controller, worker and page, in the order in which they have to be started.

    Args:
        plan: the model and how it is loaded; its name is parsed by LLaVA's code.
        ports: where they listen.
        files: what of the model is read: its folder, the tower's, what links in them lead to.
        token: guards all three; empty for none.
        environment: of the running process.
        home: a private folder; each program gets one in it for what it and its libraries write.
        fence: whether one is raised around each, and whether it has to be whole.

    Raises:
        UsageError: LLaVA's loader cannot load it so.
    """
    device = chosen_device(plan.device)
    check_loading(plan.precision, device)
    bounds = Bounds(mode=fence, ports=ports.numbers)
    of_worker = replace(bounds, files=files, gpu=device == "cuda")  # it alone has the model
    controller, worker = ports.url("controller"), ports.url("worker")
    options: dict[Role, tuple[str, ...]] = {
        "controller": ("--dispatch-method", "shortest_queue"),
        "worker": (
            *("--controller-address", controller, "--worker-address", worker),
            *("--model-path", str(plan.model_dir), "--model-name", plan.name),
            *("--device", device, "--limit-model-concurrency", str(plan.slots)),
            *([f"--load-{FACTS[plan.precision].bits}bit"] if plan.precision in QUANTIZED else ()),
        ),
        # "once" calls gradio with an argument that gradio 4 does not have.
        "page": ("--controller-url", controller, "--model-list-mode", "reload"),
    }
    return tuple(
        Program(
            role=role,
            argv=(
                *(str(plan.python), "-I", "-m", _LAUNCHER, role),
                *("--host", LOOPBACK, "--port", str(getattr(ports, role))),
                *given,
            ),
            environment={
                **private_environment(environment, home / role),
                TOKEN_VARIABLE: token,
                FENCE_VARIABLE: str(of_worker if role == "worker" else bounds),
            },
            directory=home / role,
        )
        for role, given in options.items()
    )


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
