"""LLaVA's own three programs as one of the runtimes that serve a bundle."""

from collections.abc import Mapping, Sequence

from llava_pack.health.runtimes import ServingRuntime
from llava_pack.llava_serve.health import probe, smoke
from llava_pack.llava_serve.programs import LOOPBACK, USER, chosen_device
from llava_pack.llava_serve.serve import run
from llava_pack.serve.run_state import RunState

_LOADED_WITH = frozenset({"precision", "load_4bit", "load_8bit", "device", "slots"})


def _fields(state: RunState) -> Mapping[str, str]:
    return {"controller": state.controller, "user": USER}


def _lines(state: RunState) -> Sequence[str]:
    login = [f"log in as {USER} with the password {state.token}"] if state.token else []
    return *login, f"\nLLaVA's controller, for its own clients: {state.controller}"


RUNTIME = ServingRuntime(
    honoured=_LOADED_WITH | {"port", "token", "fence", "require_fence"},
    fixed={"host": LOOPBACK, "web": True, "audit_to": "off", "picture_mode": "llava"},
    device=chosen_device,
    serve=run,
    fields=_fields,
    lines=_lines,
    smoke=smoke,
    probe=probe,
)
