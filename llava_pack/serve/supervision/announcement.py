"""What a person is told when a server is ready: where it is, and how to get there. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llava_pack.engine.port import EngineInfo
from llava_pack.serve.run_state import RunState
from llava_pack.serve.tunnel_lines import Endpoint, tunnel_lines

_ENDS = "This token ends with this start. A key that stays valid: llava-pack keys add NAME"
_STAYS = "The next start has the same token. To replace it: llava-pack keys renew-token"


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """Lines for people."""

    tunnel: str
    """The line to paste on the laptop."""
    page: str
    """What to open: behind a proxy where the server has a public name, else there."""
    placeholders: tuple[str, ...]
    """Words of that line that a person has to replace; none where it works as it is."""
    more: tuple[str, ...]
    """Other ways, and the API."""


def ready_lines(state: RunState, infos: Sequence[EngineInfo]) -> tuple[str, ...]:
    """Return one line a model: what its engine said of itself.

    Args:
        state: of the server.
        infos: in the order of the state's models.
    """
    return tuple(
        f"{name}: {info.precision} on {info.device}{info.engine and f', {info.engine}'}, "
        f"{info.context_tokens} tokens, "
        f"{info.slots} slots"
        for name, info in zip(state.models, infos, strict=True)
    )


def run_fields(state: RunState, told: Announcement) -> dict[str, Any]:
    """Return the same for programs: where it is, its token, and how a laptop gets there."""
    return {
        "url": state.url,
        "port": state.port,
        "socket": state.socket,
        "pid": state.pid,
        "token": state.token,
        "models": list(state.models),
        "bundle_id": state.bundle_id,
        "controller": f"{state.url}{state.llava_path}",
        "public_url": state.public_url,
        "log": state.log,
        "tunnel": told.tunnel,
        "placeholders": list(told.placeholders),
        "page": told.page,
    }


def announcement(state: RunState, endpoint: Endpoint, *, web: bool) -> Announcement:
    """Return what to tell.

    Args:
        state: of the server.
        endpoint: how a laptop reaches it.
        web: whether there is a page.
    """
    lines = tunnel_lines(endpoint)
    here = f"http://localhost:{endpoint.local_port}"
    root = state.public_url or here
    fragment = f"#token={state.token}" if state.token else ""
    more = [*_way_in(endpoint)]
    if web and state.public_url:
        more += ["", f"Through the tunnel: {here}/{fragment}"]
    more += ["", "Through a bastion:", f"  {lines.bastion}"] if lines.bastion else []
    more += [
        "",
        "In ~/.ssh/config, then `ssh -N llava-pack`:",
        *(f"  {row}" for row in lines.config),
    ]
    more += ["", "PuTTY:", f"  {lines.plink}", f"  {lines.putty}"] if lines.plink else []
    more += ["", f"VS Code: {lines.vscode}"] if lines.vscode else []
    key = f", API key {state.token}" if state.token else ""
    more += ["", f"OpenAI-compatible API: {root}/v1{key}"]
    more += [f"For LLaVA's own programs: --controller-url {root}{state.llava_path}"]
    more += ["", _STAYS if state.keeps_token else _ENDS] if state.token else []
    return Announcement(
        tunnel=lines.openssh,
        placeholders=endpoint.placeholders,
        page=f"{root}/{fragment}" if web else f"{root}/v1",
        more=tuple(more),
    )


def _way_in(endpoint: Endpoint) -> list[str]:
    """Return what a person has to know of the line for ssh, nothing where it is their own."""
    if endpoint.typed:
        return []
    if not endpoint.placeholders:
        other = "If you log in through another address or port (to a container, for example), use"
        return [f"{other} those."]
    words = " and ".join(endpoint.placeholders)
    told = [f"{words}: write what you logged in with: ssh -p PORT USER@HOST"]
    if endpoint.seen:
        told += [f"(This machine knows only its private address: {endpoint.seen}.)"]
    return told
