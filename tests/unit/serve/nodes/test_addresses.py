"""Which addresses nodes may use: private ones of this machine, and no default by accident."""

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llava_pack.format.errors import UsageError
from llava_pack.serve.nodes.addresses import NodeLink, own_link, own_links, parsed

LINKS = (
    NodeLink(interface="lo", address=ipaddress.ip_interface("127.0.0.1/8")),
    NodeLink(interface="eth0", address=ipaddress.ip_interface("192.168.1.7/24"), default=True),
    NodeLink(interface="ib0", address=ipaddress.ip_interface("10.0.0.1/24")),
    NodeLink(interface="ib0", address=ipaddress.ip_interface("10.0.0.9/24")),
    NodeLink(interface="ib0", address=ipaddress.ip_interface("fd00::1/64")),
    NodeLink(interface="eth0", address=ipaddress.ip_interface("203.0.113.9/24"), default=True),
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("node2", "expected an IP address, got 'node2'"),
        ("", "expected an IP address, got ''"),
        ("10.0.0.1/24", "expected an IP address"),
        ("127.0.0.1", "no other machine reaches 127.0.0.1"),
        ("::1", "no other machine reaches ::1"),
        ("0.0.0.0", "expected a private address, got 0.0.0.0"),
        ("::", "expected a private address, got ::"),
        ("203.0.113.9", "anybody who reaches the ports of several nodes can run programs on them"),
        ("100.64.0.1", "expected a private address"),
        ("224.0.0.1", "expected a private address"),
        ("255.255.255.255", "expected a private address"),
        ("2001:db8::1", "expected a private address"),
        ("::ffff:10.0.0.1", "expected a private address"),
        ("10.0.0.2", "10.0.0.2 is not an address of this machine"),
        ("192.168.1.7", "192.168.1.7 is on eth0, which also has the default route"),
    ],
)
def test_what_may_not_be_used_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(UsageError) as refused:
        own_link(text, LINKS, shared=False)
    assert why in refused.value.message
    assert refused.value.subject == "--address"


@pytest.mark.parametrize(
    ("text", "interface"), [("10.0.0.1", "ib0"), ("10.0.0.9", "ib0"), ("fd00::1", "ib0")]
)
def test_a_private_address_of_this_machine_has_its_interface(text: str, interface: str) -> None:
    assert own_link(text, LINKS, shared=False).interface == interface


def test_a_shared_network_is_taken_only_where_that_is_said() -> None:
    assert own_link("192.168.1.7", LINKS, shared=True).interface == "eth0"
    with pytest.raises(UsageError, match="expected a private address"):
        own_link("203.0.113.9", LINKS, shared=True)


@given(st.tuples(*[st.integers(0, 255)] * 4))
@example((10, 0, 0, 1))
@example((172, 15, 255, 255))
@example((172, 16, 0, 0))
@example((172, 32, 0, 0))
@example((192, 168, 255, 255))
@example((192, 169, 0, 0))
@example((169, 254, 0, 1))
def test_of_ipv4_the_ranges_of_rfc_1918_and_3927_are_private(octets: tuple[int, ...]) -> None:
    first, second = octets[:2]
    private = (
        first == 10
        or (first == 172 and second in range(16, 32))
        or (first, second) in {(192, 168), (169, 254)}
    )
    assert accepted(".".join(map(str, octets))) is private


@given(st.integers(0, 2**128 - 1) | st.integers(0xFA << 120, (1 << 128) - 1))
@example(0xFC << 120)
@example(0xFE80 << 112)
@example(0xFEC0 << 112)
def test_of_ipv6_unique_local_and_link_local_ones_are_private(number: int) -> None:
    private = number >> 121 == 0xFC >> 1 or number >> 118 == 0xFE80 >> 6
    assert accepted(str(ipaddress.IPv6Address(number))) is private


@pytest.mark.parametrize("text", ["8.8.8.8", "127.0.0.1", "gpu01"])
def test_the_way_out_is_for_the_option_that_was_typed(text: str) -> None:
    for option, hint in (("--address", "--address ADDRESS"), ("--join", "serve --nodes")):
        with pytest.raises(UsageError) as caught:
            parsed(text, option)
        assert caught.value.subject == option
        assert hint in caught.value.hint


def accepted(text: str) -> bool:
    try:
        parsed(text)
    except UsageError:
        return False
    return True


def test_this_machine_has_its_loopback_and_no_default_route_there() -> None:
    loopback = [link for link in own_links() if str(link.address.ip) == "127.0.0.1"]
    assert [link.default for link in loopback] == [False]
    assert loopback[0].address.network == ipaddress.ip_network("127.0.0.0/8")
