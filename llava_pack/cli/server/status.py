"""`llava-pack status`: the servers that run on this machine, and how their models are."""

import time
from typing import Any

from llava_pack.cli import console
from llava_pack.cli.arguments import AsJson
from llava_pack.cli.language import translated
from llava_pack.client.discovery import chosen_server, http
from llava_pack.format.errors import reason_of
from llava_pack.installation.unit import astray
from llava_pack.serve.nodes.standing import RUNNING, node_line
from llava_pack.serve.run_state import RunState, running, serving

_OWN = "llava-pack"


def status(as_json: AsJson = False) -> None:
    """Show the servers on this machine: models, slots, queue.

    Exit code 15: no server is running. `llava-pack health` checks whether it works.

    \b
    Examples:
      llava-pack status
      llava-pack status --json
    """
    for unit, program in astray():
        console.say(f"! {unit} starts {program}, which is not there: llava-pack service install")
    chosen_server(nodes=True)
    told = [facts_of(server) for server in serving()]
    nodes = [state for state in running() if state.follower]
    if as_json:
        facts = [{"pid": one.pid, "log": one.log, **one.follower} for one in nodes]
        console.document("status", {"servers": told, "nodes": facts})
        return
    for state in nodes:
        mark = console.mark("ok") if state.follower["phase"] == RUNNING else "!"
        console.data(f"{mark} {node_line(state)}")
        console.data(f"  process {state.pid}, log: {state.log}")
    for server in told:
        up = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(server["started"]))
        console.data(f"{server['where']}  process {server['pid']}, since {up}")
        if server["error"]:
            console.data(f"  {console.mark('fail')} {server['error']}")
        for name, model in server["models"].items():
            console.data(f"  {model_line(name, model)}")
            for address, replica in model.get("replicas", {}).items():
                console.data(f"    {replica_line(address, replica)}")
        console.data(f"  log: {server['log']}")


def facts_of(server: RunState) -> dict[str, Any]:
    """Return what a server says of itself; its silence is a fact too."""
    import httpx

    facts: dict[str, Any] = {
        "pid": server.pid,
        "where": server.socket or server.url,
        "started": server.started,
        "bundle_id": server.bundle_id,
        "log": server.log,
        "models": {},
        "error": "",
    }
    try:
        with http(server) as client:
            startup, live = client.get("/startupz").json(), client.get("/livez").json()
            facts["models"] = {
                name: {**model, **live["models"].get(name, {})}
                for name, model in startup["models"].items()
            }
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        facts["error"] = f"it does not respond: {reason_of(error)}"
    return facts


def model_line(name: str, model: dict[str, Any]) -> str:
    """Return how a model is, for people."""
    if model["phase"] != "ready":
        return f"! {name}: {model['phase']} {translated(model['detail'])}".rstrip()
    mark = console.mark("ok")
    engine = model.get("engine", _OWN)  # which servers of earlier versions do not tell
    where = model["device"] if engine == _OWN else f"{model['device']}, {engine}"
    return (
        f"{mark} {name}: {model['precision']} on {where}, "
        f"{model['context_tokens']} tokens, {model['slots']} slots; "
        f"{model['running']} running, {model['waiting']} waiting"
    )


def replica_line(address: str, replica: dict[str, Any]) -> str:
    """Return how one of a model's replicas is, for people."""
    if replica["phase"] != "ready":
        return f"! {address}: {replica['phase']} {translated(replica['detail'])}".rstrip()
    return (
        f"{console.mark('ok')} {address}: {replica['precision']} on {replica['device']}, "
        f"{replica['slots']} slots; {replica['running']} running, {replica['waiting']} waiting; "
        f"{replica['answered']} answered, {replica['lost']} lost"
    )
