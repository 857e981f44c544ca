"""Which address of this machine other nodes may reach: a private one, which a person named.

Engines that span machines open ports there that ask for no password, and believe what comes: it is
unpickled, so whoever can connect runs programs here. Hence no address is chosen for a person.

Source: RFC 1918, RFC 3927, RFC 4193, RFC 4291; docs/explanation/threat-model.md.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from itertools import pairwise
from pathlib import Path

from llava_pack.format.errors import UsageError

_PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)
_WHY = "anybody who reaches the ports of several nodes can run programs on them"
_HINT = "--address ADDRESS: this machine's on a network that only the nodes are on"
_PRINTED = "paste the line that `llava-pack serve --nodes` printed"
_REJECTED = 0x0200  # Source: linux/ipv6_route.h, RTF_REJECT
_NONE = "0" * 32

_Interface = IPv4Interface | IPv6Interface


@dataclass(frozen=True, kw_only=True)
class NodeLink:
    """An address of this machine, and what has it.

    Attributes:
        interface: name of the network interface.
        address: of it, with its network.
        default: whether the default route goes out there.
    """

    interface: str
    address: _Interface
    default: bool = False


def parsed(text: str, option: str = "--address") -> IPv4Address | IPv6Address:
    """Return an address that nodes may use.

    Args:
        text: as it was typed.
        option: that it was typed for.

    Raises:
        UsageError: it is none, everybody's, of no network, or of this machine alone.

    >>> parsed("10.0.0.1")
    IPv4Address('10.0.0.1')
    """
    hint = _HINT if option == "--address" else _PRINTED
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise UsageError(
            f"expected an IP address, got {text!r}", subject=option, hint=hint
        ) from error
    if address.is_loopback:
        raise UsageError(f"no other machine reaches {text}", subject=option, hint=hint)
    if not any(address in network for network in _PRIVATE):
        raise UsageError(
            f"expected a private address, got {text}: {_WHY}", subject=option, hint=hint
        )
    return address


def own_link(
    text: str, links: Iterable[NodeLink], *, shared: bool, option: str = "--address"
) -> NodeLink:
    """Return the link of this machine that has an address.

    Args:
        text: the address, as it was typed.
        links: of this machine.
        shared: whether it may be the interface of the default route, which leads to others.
        option: that it was typed for.

    Raises:
        UsageError: it may not be used, or is not this machine's.
    """
    address = parsed(text, option)
    found = [link for link in links if link.address.ip == address]
    if not found:
        raise UsageError(f"{text} is not an address of this machine", subject=option, hint=_HINT)
    if found[0].default and not shared:
        raise UsageError(
            f"{text} is on {found[0].interface}, which also has the default route: {_WHY}",
            subject=option,
            hint="use a network of the nodes alone; or, where a firewall keeps others out, "
            "add --shared-network",
        )
    return found[0]


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """Return what the words of a command line give an option; None where they do not name it.

    >>> value_of("--join", ["--rank", "1", "--join=10.0.0.1:29500"])
    '10.0.0.1:29500'
    """
    words = [part for word in arguments for part in word.split("=", 1)]
    return next((after for word, after in pairwise(words) if word == option), None)


def network_of(arguments: Sequence[str]) -> str:
    """Return the network that nodes of a command line are on, the head's address where none is.

    Empty where it names no other nodes.

    Args:
        arguments: of `serve`.
    """
    joined = (value_of("--join", arguments) or "").rpartition(":")[0].strip("[]")
    named = value_of("--address", arguments) or joined
    try:
        address = ipaddress.ip_address(named)
    except ValueError:
        return ""
    networks = (link.address.network for link in own_links())
    return next((str(one) for one in networks if address in one), named)


def own_links() -> tuple[NodeLink, ...]:
    """Return the links of this machine."""
    import psutil  # type: ignore[import-untyped]

    defaults = _default_interfaces()
    found = []
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            with suppress(ValueError):
                address = _with_network(entry.address, entry.netmask)
                found.append(NodeLink(interface=name, address=address, default=name in defaults))
    return tuple(found)


def _with_network(address: str, mask: str | None) -> _Interface:
    """Return an address with its network; one of another family is a ValueError.

    >>> _with_network("10.0.0.1", "255.255.255.0"), _with_network("fd00::1", "ffff::")
    (IPv4Interface('10.0.0.1/24'), IPv6Interface('fd00::1/16'))
    """
    plain = ipaddress.ip_address(address)
    bits = int(ipaddress.ip_address(mask)).bit_count() if mask else plain.max_prefixlen
    return ipaddress.ip_interface(f"{address}/{bits}")


def _default_interfaces() -> frozenset[str]:
    """Return the interfaces that a default route goes out at. Source: proc(5), net/route."""
    rows = [row.split() for row in _rows("/proc/net/route")[1:]]
    found = {row[0] for row in rows if {row[1], row[7]} == {_NONE[:8]}}
    rows = [row.split() for row in _rows("/proc/net/ipv6_route")]
    usable = [row for row in rows if not int(row[8], 16) & _REJECTED]
    return frozenset(found | {row[9] for row in usable if (row[0], row[1]) == (_NONE, "00")})


def _rows(path: str) -> list[str]:
    with suppress(OSError):
        return Path(path).read_text(encoding="ascii").splitlines()
    return []
