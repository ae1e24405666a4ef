"""Interfaces from the kernel's messages."""

import socket
import struct

from appliance.network import Interface, is_on_link, parse_interfaces, read_interfaces


def attribute(kind, data):
    padding = b"\0" * (-len(data) % 4)
    return struct.pack("=HH", 4 + len(data), kind) + data + padding


def link(index, name, flags):
    head = struct.pack("=BxHiII", 0, 1, index, flags, 0)
    return head + attribute(3, name.encode() + b"\0")


def address(index, packed, prefix, flags=0):
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    head = struct.pack("=BBBBI", family, prefix, flags & 0xFF, 0, index)
    return head + attribute(1, packed) + attribute(8, struct.pack("=I", flags))


def test_flags_and_addresses():
    links = [link(1, "lo", 0x10049), link(2, "eth0", 0x11043), link(3, "wg0", 0x10091)]
    links.append(link(4, "eth1", 0x1003))
    found = parse_interfaces(
        links, [address(1, bytes([127, 0, 0, 1]), 8), address(2, bytes([10, 0, 0, 5]), 24)]
    )
    assert [i.name for i in found] == ["lo", "eth0", "wg0", "eth1"]
    lo, eth0, wg0, eth1 = found
    assert lo.is_loopback
    assert wg0.is_point_to_point
    assert (eth0.is_up, eth0.has_carrier, eth0.is_loopback) == (True, True, False)
    assert str(eth0.addresses[0]) == "10.0.0.5/24"
    assert (eth1.is_up, eth1.has_carrier) == (True, False)


def test_addresses_that_are_not_to_be_used_are_left_out():
    six = bytes.fromhex("fd0000000000000000000000000000") + b"\x01"
    links = [link(2, "eth0", 0x11043)]
    for flag in (0x01, 0x08, 0x20, 0x40):  # temporary, taken, deprecated, being checked
        assert parse_interfaces(links, [address(2, six, 64, flag)])[0].addresses == ()
    assert parse_interfaces(links, [address(2, six, 64, 0x80)])[0].addresses
    # The lowest flag of an IPv4 address says that it is a second one.
    assert parse_interfaces(links, [address(2, bytes([10, 0, 0, 5]), 24, 0x01)])[0].addresses


def test_on_link_is_inside_a_prefix_of_that_interface():
    (eth0,) = parse_interfaces([link(2, "eth0", 0x11043)], [address(2, bytes([10, 0, 0, 5]), 24)])
    assert is_on_link("10.0.0.77", "eth0", [eth0])
    assert not is_on_link("10.0.1.77", "eth0", [eth0])
    assert not is_on_link("10.0.0.77", "eth1", [eth0])
    assert not is_on_link("fe80::1", "eth0", [Interface("eth0", 2)])


def test_this_machine_has_a_loopback():
    (lo,) = [i for i in read_interfaces() if i.is_loopback]
    assert lo.name == "lo"
