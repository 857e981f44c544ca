"""`llava-pack serve --join`: what a node of another machine's server runs."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llava_pack.cli import console
from llava_pack.cli.server.asked import program
from llava_pack.cli.server.nodes import NodeOptions, spanning
from llava_pack.serve.nodes.standing import node_line
from llava_pack.serve.run_state import RunState, directories

if TYPE_CHECKING:
    from llava_pack.cli.loading import ModelOptions
    from llava_pack.installation.installed import Installation
    from llava_pack.profiles.profile import Node
    from llava_pack.serve.nodes.wire import NodeOrder
    from llava_pack.serve.subprocesses import EngineCommand
    from llava_pack.serve.supervision.follower import FollowerPlan
    from llava_pack.serve.supervision.plans import EnginePlan


def join_head(
    options: NodeOptions,
    models: "ModelOptions",
    items: "Sequence[Installation]",
    asked: Mapping[str, str],
) -> int:
    """Be a node of a head until told to end, and return the exit code.

    Raises:
        IntegrityError: another bundle is installed here than on the head.
        UsageError: the key is not known, the address may not be used, or the place is taken.
        AccessError: the head has another key.
    """
    from llava_pack.serve.nodes.crew import other_bundle
    from llava_pack.serve.supervision.follower import follow

    item = spanning(items)
    if item.bundle_id != options.fingerprint:
        raise other_bundle(str(options.fingerprint), item.bundle_id)
    plan = follower_plan(options, item.bundle_id, models.plans([item])[0], asked)
    with console.outliving():
        return follow(plan, console.progress())


def announce_node(state: RunState, *, as_json: bool) -> None:
    """Tell that a node runs in the background, and how far it is."""
    if as_json:
        facts = {"pid": state.pid, "log": state.log, **state.follower}
        console.document("serve", facts)
        return
    console.say(node_line(state))
    console.say(f"It runs in the background, process {state.pid}; it goes on trying to join.")
    console.say(f"To stop it: {program()} stop; its log: {program()} logs")


def follower_plan(
    options: NodeOptions, bundle_id: str, plan: "EnginePlan", asked: Mapping[str, str]
) -> "FollowerPlan":
    """Return the run of a node that joins a head.

    Args:
        options: of the nodes.
        bundle_id: of what is installed here, and on the head.
        plan: how it would be served alone.
        asked: the options as texts, for another run to be compared with.

    Raises:
        UsageError: the key is not known, or the address may not be used.
    """
    from llava_pack.serve.logfile import log_path
    from llava_pack.serve.nodes.addresses import own_link, own_links
    from llava_pack.serve.nodes.join_key import followers_key, join_key_path
    from llava_pack.serve.supervision.commands import compiled_path, engine_command
    from llava_pack.serve.supervision.follower import FollowerPlan
    from llava_pack.serve.supervision.systemd import Notifier

    directory, (host, port) = directories()[0], options.head

    def interface(address: str) -> str:
        return own_link(address, own_links(), shared=options.shared_network).interface

    def command(node: "Node", order: "NodeOrder", socket: Path) -> "EngineCommand":
        told = replace(plan, node=node, **vars(order.settings))
        return engine_command(told, socket, compiled=compiled_path(directory))

    if options.address is not None:
        interface(options.address)
    return FollowerPlan(
        head=host,
        port=port,
        rank=options.rank or 0,
        bundle_id=bundle_id,
        key=followers_key(join_key_path(directory), os.environ),
        own=options.address or "",
        interface=interface,
        command=command,
        state=RunState(
            pid=os.getpid(),
            host=host,
            port=0,
            token="",
            socket=None,
            models=(plan.name,),
            started=int(time.time()),
            bundle_id=bundle_id,
            log=str(log_path(directory)),
            drain_s=0.0,
            term_s=plan.term_s,
            asked=asked,
        ),
        state_directory=directory,
        log=log_path(directory),
        notifier=Notifier.from_environment(os.environ),
    )
