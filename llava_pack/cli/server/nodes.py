"""The options of `serve` about several nodes of one model, and what head and followers run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from llava_pack.cli import console
from llava_pack.format.errors import UsageError
from llava_pack.runtimes import RUNTIMES
from llava_pack.serve.run_state import directories

if TYPE_CHECKING:
    from llava_pack.engine.fence.value import FenceMode
    from llava_pack.installation.installed import Installation
    from llava_pack.serve.nodes.crew import Crew
    from llava_pack.serve.nodes.join_line import Meeting
    from llava_pack.serve.supervision.plans import EnginePlan
    from llava_pack.serve.supervision.supervisor import ServePlan

JOIN_PORT = 29500
_PRINTED = "leave it out, or paste the line that `llava-pack serve --nodes` printed"
OF_JOIN = frozenset(
    {
        *("recipes", "join", "rank", "fingerprint", "address", "shared_network"),
        *("detach", "keep_env", "prefix", "as_json", "as_root"),
    }
)
"""Parameters of `serve` that a follower honours: what is served otherwise, its head says."""


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """Which machines hold a model together; as it was typed.

    Raises:
        UsageError: two options contradict each other, or one lacks another.
    """

    nodes: Annotated[
        int,
        typer.Option(min=1, help="Machines that hold the model together; this one is the head."),
    ] = 1
    address: Annotated[
        str | None,
        typer.Option(help="Address of this machine on the private network of the nodes."),
    ] = None
    join_port: Annotated[
        int,
        typer.Option(min=1024, max=65534, help="Port of the head for the nodes; so is the next."),
    ] = JOIN_PORT
    shared_network: Annotated[
        bool,
        typer.Option(
            "--shared-network", help="Allow an --address whose interface has the default route."
        ),
    ] = False
    join: Annotated[
        str | None,
        typer.Option(metavar="HEAD:PORT", help="Be a node of the server there: see --nodes."),
    ] = None
    rank: Annotated[
        int | None, typer.Option(min=1, help="Which node this is, with --join; the head is 0.")
    ] = None
    fingerprint: Annotated[
        str | None, typer.Option(help="Bundle id that the head serves, with --join.")
    ] = None

    def __post_init__(self) -> None:
        if self.join is not None:
            self._check_join()
            return
        if given := [f"--{name}" for name in ("rank", "fingerprint") if getattr(self, name)]:
            raise UsageError("goes only with --join", subject=", ".join(given), hint=_PRINTED)
        if self.nodes > 1 and self.address is None:
            raise UsageError(
                "expected --address beside it: the nodes open ports that run programs of "
                "anybody who reaches them, so no address is chosen for you",
                subject="--nodes",
                hint="leave it out, or add --address ADDRESS: this machine's on a network that "
                "only the nodes are on",
            )
        alone = {"--address": self.address, "--shared-network": self.shared_network}
        alone["--join-port"] = self.join_port != JOIN_PORT
        if self.nodes == 1 and (given := [name for name, value in alone.items() if value]):
            raise UsageError(
                "goes only with --nodes",
                subject=", ".join(given),
                hint="leave it out, or add --nodes N",
            )

    def _check_join(self) -> None:
        _ = self.head
        missing = [f"--{name}" for name in ("rank", "fingerprint") if getattr(self, name) is None]
        if missing:
            raise UsageError(
                f"expected {' and '.join(missing)} beside it", subject="--join", hint=_PRINTED
            )

    @property
    def head(self) -> tuple[str, int]:
        """Return address and port of the head that is joined.

        Raises:
            UsageError: it is none that nodes may use.
        """
        from llava_pack.serve.nodes.addresses import parsed

        host, _, port = (self.join or "").rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise UsageError(
                f"expected HEAD:PORT, got {self.join!r}", subject="--join", hint=_PRINTED
            )
        return str(parsed(host.strip("[]"), "--join")), int(port)


def meeting_of(
    options: NodeOptions, items: "Sequence[Installation]", names: Sequence[str], fence: "FenceMode"
) -> "Meeting | None":
    """Return where the other nodes find this head; None where there are none.

    Args:
        options: of the nodes.
        items: the installed models, none where a folder is served.
        names: what was typed to choose them.
        fence: whether there is one, and whether it has to be whole.

    Raises:
        UsageError: what serves them spans no machines, or the address may not be used.
        ServeError: a fence is required, and what serves them has none.
    """
    from llava_pack.serve.nodes.addresses import own_link, own_links
    from llava_pack.serve.nodes.join_key import heads_key, join_key_path
    from llava_pack.serve.nodes.join_line import Meeting
    from llava_pack.serve.supervision.plans import check_fence

    if options.nodes == 1:
        return None
    item = spanning(items)
    check_fence(item.manifest.serving.engine, fence)
    link = own_link(options.address or "", own_links(), shared=options.shared_network)
    return Meeting(
        program=f"{item.prefix}/bin/llava-pack",
        models=tuple(names),
        head=str(link.address.ip),
        port=options.join_port,
        count=options.nodes,
        bundle_id=item.bundle_id,
        key=heads_key(join_key_path(directories()[0])),
        shared=link.default,
        interface=link.interface,
        network=link.address.network,
    )


def spanning(items: "Sequence[Installation]") -> "Installation":
    """Return the installed model that several nodes can hold.

    Raises:
        UsageError: there is none, or more than one.
    """
    able = [one.title for one in RUNTIMES.values() if one.profile and one.profile.nodes]
    hint = f"build the bundle with --runtime for one of: {', '.join(able)}"
    if not items:
        raise UsageError(
            "several nodes hold an installed model, got none", subject="--nodes", hint=hint
        )
    if len(items) > 1:
        raise UsageError("several nodes hold one model, got more", subject="--nodes")
    runtime = RUNTIMES[items[0].manifest.serving.engine]
    if runtime.profile is None or not runtime.profile.nodes:
        raise UsageError(f"{runtime.title} serves on one machine", subject="--nodes", hint=hint)
    return items[0]


def tell_nodes(meeting: "Meeting", *, as_json: bool) -> None:
    """Tell what is pasted on the other nodes."""
    from llava_pack.serve.nodes.join_line import firewall_lines, join_lines

    lines, walls = join_lines(meeting), firewall_lines(meeting)
    if as_json:
        console.document("nodes", {"join": list(lines), "firewall": dict(walls)})
        return
    console.say(
        f"Anybody who reaches the ports of the nodes on {meeting.interface} can run programs on "
        "them. As root, on each node, with the firewall that is there:"
    )
    for name, line in walls.items():
        console.say(f"  {name}: {line}")
    console.say("\nOn the other nodes, where the same bundle is installed, one line each:")
    for line in lines:
        console.verbatim(line)
    console.say("")


def crew_of(meeting: "Meeting", plan: "EnginePlan") -> "Crew":
    """Return the other nodes as the head knows them; its port is taken.

    Raises:
        ServeError: a port is taken.
    """
    from llava_pack.serve.nodes.crew import Crew, CrewPlan
    from llava_pack.serve.nodes.wire import SharedSettings
    from llava_pack.serve.supervision.listener import listen_on_port

    listen_on_port(meeting.head, meeting.engine_port, option="--join-port").close()
    crew = CrewPlan(
        listening=listen_on_port(meeting.head, meeting.port, option="--join-port"),
        count=meeting.count,
        bundle_id=meeting.bundle_id,
        key=meeting.key,
        port=meeting.engine_port,
        settings=SharedSettings(
            precision=plan.precision,
            device=plan.device,
            slots=plan.slots,
            context_tokens=plan.context_tokens,
            gpus=plan.gpus,
        ),
    )
    return Crew(crew, console.progress().note)


def spread_over(plan: "ServePlan", meeting: "Meeting") -> "ServePlan":
    """Return a run whose model other nodes hold too; the ports for them are taken.

    Raises:
        ServeError: a port is taken.
    """
    from llava_pack.profiles.profile import Node

    node = Node(
        rank=0,
        count=meeting.count,
        head=meeting.head,
        port=meeting.engine_port,
        own=meeting.head,
        interface=meeting.interface,
    )
    alone, crew = plan.command, crew_of(meeting, plan.plans[0])
    return replace(
        plan,
        plans=tuple(replace(one, node=node) for one in plan.plans),
        crew=crew,
        command=lambda one, socket: replace(alone(one, socket), others=crew),
        state=replace(plan.state, network=str(meeting.network)),
    )
