"""The network interfaces of this machine, as the kernel tells them, and word of every change.

Everything comes over a netlink socket (rtnetlink(7)): nothing is polled, nothing needs a right.
Which interfaces count as a LAN is for others to say.
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface

IpInterface = IPv4Interface | IPv6Interface

log = logging.getLogger("hearth.network")

SETTLE_S = 0.05  # a cable or a DHCP answer makes several messages; they are looked at together
READ_TIMEOUT_S = 5.0

# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h, linux/if.h
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_LINK = struct.Struct("=BxHiII")  # family, hardware type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_NEW_LINK, _GET_LINK, _NEW_ADDRESS, _GET_ADDRESS = 16, 18, 20, 22
_GROUPS = 0x1 | 0x10 | 0x100  # links, IPv4 addresses, IPv6 addresses
_IS_UP, _IS_LOOPBACK, _IS_POINT_TO_POINT, _HAS_CARRIER = 0x1, 0x8, 0x10, 0x10000
_LINK_NAME = 3
_TO, _LOCAL, _FLAGS = 1, 2, 8
# IPv6: a temporary (privacy) address, one still being checked, one that is taken, one going away.
_NOT_FOR_USE = 0x1 | 0x8 | 0x20 | 0x40


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface; `addresses` with their prefixes, without those that are not to be used."""

    name: str
    index: int
    is_up: bool = True  # by the administrator's word
    has_carrier: bool = True  # a cable with somebody at its end
    is_loopback: bool = False
    is_point_to_point: bool = False
    addresses: tuple[IpInterface, ...] = ()


@dataclass(slots=True)
class Network:
    """What is known of the interfaces; `on_change` is called after each change, in the loop."""

    interfaces: tuple[Interface, ...] = ()
    on_change: list[Callable[[], None]] = field(default_factory=list)

    def own_addresses(self) -> list[IpInterface]:
        """Every address of this machine but loopback's, with its prefix."""
        return [
            address
            for interface in self.interfaces
            if not interface.is_loopback
            for address in interface.addresses
        ]

    async def read(self) -> None:
        """Look once. Raises OSError where the kernel or the unit does not let us."""
        found = await asyncio.to_thread(read_interfaces)
        if found != self.interfaces:
            self.interfaces = found
            for told in self.on_change:
                told()

    async def run_forever(self) -> None:
        """Follow every change. Without netlink the interfaces stay as they were read."""
        with ExitStack() as stack:
            try:
                events = stack.enter_context(_Events())
            except OSError as error:
                log.warning("network changes are not followed: %s", error.strerror)
                return
            while True:
                try:
                    await self.read()  # also what changed between the first look and now
                except OSError as error:
                    log.warning("network interfaces cannot be read: %s", error.strerror)
                await events.wait()


class _Events:
    """A netlink socket that says that something changed; what changed is read anew."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)

    def __enter__(self) -> "_Events":
        try:
            self._socket.bind((0, _GROUPS))
        except OSError:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket, self._drain)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    async def wait(self) -> None:
        await self._changed.wait()
        await asyncio.sleep(SETTLE_S)
        self._changed.clear()

    def _drain(self) -> None:
        with suppress(OSError):  # empty now, or so much was lost (ENOBUFS) that it must be read
            while self._socket.recv(65536):
                pass
        self._changed.set()


def read_interfaces() -> tuple[Interface, ...]:
    """Every interface with its addresses, in the kernel's order. Blocking. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(READ_TIMEOUT_S)
        netlink.bind((0, 0))
        links = list(_dump(netlink, _GET_LINK, _LINK.size))
        addresses = list(_dump(netlink, _GET_ADDRESS, _ADDRESS.size))
    return parse_interfaces(links, addresses)


def is_on_link(address: str, interface: str, interfaces: Iterable[Interface]) -> bool:
    """Whether `address` lies in a prefix of the interface of that name."""
    parsed = ip_address(address)
    return any(
        parsed in own.network
        for each in interfaces
        if each.name == interface
        for own in each.addresses
    )


def parse_interfaces(links: list[bytes], addresses: list[bytes]) -> tuple[Interface, ...]:
    """Interfaces from the bodies of RTM_NEWLINK and RTM_NEWADDR messages."""
    by_index: dict[int, list[IpInterface]] = {}
    for body in addresses:
        index, address = _parse_address(body)
        if address is not None:
            by_index.setdefault(index, []).append(address)
    return tuple(_parse_link(body, by_index) for body in links)


def _parse_link(body: bytes, addresses: dict[int, list[IpInterface]]) -> Interface:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    name = _attributes(body, _LINK.size).get(_LINK_NAME, b"").rstrip(b"\0").decode(errors="replace")
    return Interface(
        name=name,
        index=index,
        is_up=bool(flags & _IS_UP),
        has_carrier=bool(flags & _HAS_CARRIER),
        is_loopback=bool(flags & _IS_LOOPBACK),
        is_point_to_point=bool(flags & _IS_POINT_TO_POINT),
        addresses=tuple(addresses.get(index, ())),
    )


def _parse_address(body: bytes) -> tuple[int, IpInterface | None]:
    family, prefix, flags, _, index = _ADDRESS.unpack_from(body)
    found = _attributes(body, _ADDRESS.size)
    if _FLAGS in found:
        (flags,) = struct.unpack("=I", found[_FLAGS])
    packed = found.get(_LOCAL) or found.get(_TO)  # only a point-to-point link has both, and differs
    if packed is None or (family == socket.AF_INET6 and flags & _NOT_FOR_USE):
        return index, None
    return index, ip_interface(f"{ip_address(packed)}/{prefix}")


def _attributes(body: bytes, start: int) -> dict[int, bytes]:
    found = {}
    while start + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, start)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = body[start + _ATTRIBUTE.size : start + length]
        start += _aligned(length)
    return found


def _dump(netlink: socket.socket, kind: int, body_bytes: int) -> Iterator[bytes]:
    """The bodies of all messages that answer a dump of `kind`."""
    request = _HEADER.pack(_HEADER.size + body_bytes, kind, _REQUEST_DUMP, 1, 0)
    netlink.send(request + bytes(body_bytes))
    while True:
        data = netlink.recv(1 << 18)
        start = 0
        while start + _HEADER.size <= len(data):
            length, answer, _, _, _ = _HEADER.unpack_from(data, start)
            if answer == _DONE:
                return
            if answer == _ERROR or length < _HEADER.size:
                raise OSError(0, "the kernel does not list network interfaces")
            if answer in {_NEW_LINK, _NEW_ADDRESS}:
                yield data[start + _HEADER.size : start + length]
            start += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
