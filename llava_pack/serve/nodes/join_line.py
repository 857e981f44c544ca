"""What a person pastes on the other nodes, and on the firewall of each. Pure."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from llava_pack.serve.nodes.join_key import VARIABLE


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where nodes find their head, and what they have to know.

    Attributes:
        program: llava-pack on the other nodes, absolute.
        models: what is typed to choose the model; empty for the one that was activated last.
        head: private address of the head.
        port: of the head's supervisor; the engines meet at the next one.
        count: nodes, the head among them.
        bundle_id: that all have to have.
        key: the join key.
        shared: whether the network is shared with other machines.
        interface: of the head, which has the address.
        network: that the address is in.
    """

    program: str
    models: tuple[str, ...]
    head: str
    port: int
    count: int
    bundle_id: str
    key: str
    shared: bool
    interface: str
    network: IPv4Network | IPv6Network

    @property
    def engine_port(self) -> int:
        """Where the engines meet, on the head."""
        return self.port + 1


def joined(host: str, port: int) -> str:
    """Return an address with its port, as it is typed.

    >>> joined("10.0.0.1", 29500), joined("fd00::1", 29500)
    ('10.0.0.1:29500', '[fd00::1]:29500')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def join_lines(meeting: Meeting) -> tuple[str, ...]:
    """Return the line for each other node, in the order of their ranks.

    The key is set in the environment of the command, so that no list of processes shows it.
    """
    words = [meeting.program, "serve", *meeting.models]
    words += ["--join", joined(meeting.head, meeting.port)]
    last = ["--fingerprint", meeting.bundle_id, *(["--shared-network"] if meeting.shared else [])]
    return tuple(
        f"{VARIABLE}={shlex.quote(meeting.key)} {shlex.join([*words, '--rank', str(rank), *last])}"
        for rank in range(1, meeting.count)
    )


def firewall_lines(meeting: Meeting) -> Mapping[str, str]:
    """Return the line that root runs on each node, by the firewall that it is for.

    Only the interface of the nodes may reach the two ports of the head and those that engines open
    at random. The name of the interface may be another one on each node.
    """
    ports, name = f"{meeting.port}, {meeting.engine_port}", meeting.interface
    table = "inet llava_pack"
    chain = "'{ type filter hook input priority -5; }'"
    rule = f"""'iifname != {{ "lo", "{name}" }} tcp dport {{ {ports} }} drop'"""
    steps = (
        f"add table {table}",
        f"add chain {table} nodes {chain}",
        f"add rule {table} nodes {rule}",
    )
    return {
        "nftables": " && ".join(f"nft {step}" for step in steps),
        "firewalld": f"firewall-cmd --permanent --zone=trusted --change-interface={name} && "
        "firewall-cmd --reload",
        "ufw": f"ufw allow in on {name} from {meeting.network} proto tcp",
    }
