"""What has to be true of the engines that a server is to have, before anything is started."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from llava_pack.engine.fence.value import FenceMode
from llava_pack.format.errors import ServeError
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.supervision.plans import EnginePlan, check_fence


def check_engines(plans: Sequence[EnginePlan], fence: FenceMode) -> None:
    """Refuse to serve where a package for it is missing, or a fence that has to be there.

    Args:
        plans: what is to be served; an engine in another environment has its own packages.
        fence: whether there is one, and whether it has to be whole.

    Raises:
        ServeError: the names of the packages, or the engine without a fence.
    """
    own = any(_is_of_this_environment(plan) for plan in plans)
    packages = ["fastapi", "uvicorn", *(["torch", "transformers"] if own else [])]
    if missing := [name for name in packages if find_spec(name) is None]:
        raise ServeError(
            f"this installation has no {', '.join(missing)}, which serving needs",
            hint='in a clone of llava-pack: uv tool install --force ".[serve]"; what was '
            "installed with another engine serves the model of its bundle alone",
        )
    for plan in plans:
        check_fence(plan.engine, fence)


def _is_of_this_environment(plan: EnginePlan) -> bool:
    """Return whether llava-pack's engine serves a plan with the packages that are here."""
    place = plan.python.parent.parent.resolve()
    return RUNTIMES[plan.engine].profile is None and place == Path(sys.prefix).resolve()
