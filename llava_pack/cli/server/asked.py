"""What a run is asked for, compared with what those that are there were asked for."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava_pack.format.errors import ServeError
from llava_pack.serve.run_state import RunState, running

if TYPE_CHECKING:
    from llava_pack.cli.loading import ModelOptions
    from llava_pack.cli.server.fronting import ReplicaOptions
    from llava_pack.cli.server.nodes import NodeOptions
    from llava_pack.cli.server.serving import ServerOptions
    from llava_pack.installation.installed import Installation

_NOT_COMPARED = frozenset({"as_root", "reached_as"})
_DEVICES = "CUDA_VISIBLE_DEVICES"


def asked_for(
    options: "ModelOptions",
    items: "Sequence[Installation]",
    *groups: "ServerOptions | ReplicaOptions | NodeOptions",
) -> dict[str, str]:
    """Return what a run is asked for, as texts that are compared with those of another run.

    Args:
        options: of the models.
        items: the installed models, none where a folder is served.
        groups: of the server, its replicas and its nodes.
    """
    typed = dict(vars(options))
    for group in groups:
        typed |= vars(group)
    typed["model_path"] = options.folder
    asked = {name: str(value) for name, value in typed.items() if name not in _NOT_COMPARED}
    return asked | {"models": " ".join(str(one.root) for one in items), _DEVICES: _devices()}


def same_run(asked: Mapping[str, str]) -> RunState | None:
    """Return the server that serves what is asked for, None where none serves these models.

    Raises:
        ServeError: one serves them in another way.
    """
    for state in running():
        known = state.asked
        if known == asked:
            return state
        if _models(known) & _models(asked) and known.get(_DEVICES) == asked[_DEVICES]:
            raise ServeError(
                f"process {state.pid} already serves {', '.join(state.models)} with other options: "
                f"{_difference(known, asked)}",
                subject="serve --detach",
                hint=f"{program()} stop; then run this again",
            )
    return None


def _models(asked: Mapping[str, str]) -> set[Path]:
    """Return what is served: a recipe's folder, whatever its generation; or a model's."""
    if asked.get("model_path") not in {None, "None"}:
        return {Path(asked["model_path"])}
    return {Path(root).parent.parent for root in asked.get("models", "").split()}


def _difference(known: Mapping[str, str], asked: Mapping[str, str]) -> str:
    """Return what differs, for people."""
    told = []
    for name in sorted({*known, *asked}):
        before, now = known.get(name, ""), asked.get(name, "")
        if before != now and name == "models":
            told.append(f"generations {_numbers(before)}, expected {_numbers(now)}")
        elif before != now:
            told.append(f"--{name.replace('_', '-')} {before}, expected {now}")
    return "; ".join(told)


def _numbers(roots: str) -> str:
    return " ".join("/".join(Path(root).parts[-3::2]) for root in roots.split())


def program() -> str:
    """Return this llava-pack as it is typed."""
    prefix = os.environ.get("LLAVA_PACK_PREFIX")
    return f"{shlex.quote(prefix)}/bin/llava-pack" if prefix else "llava-pack"


def _devices() -> str:
    return os.environ.get(_DEVICES, "")
