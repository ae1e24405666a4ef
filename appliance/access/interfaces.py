"""The addresses of this machine's interfaces, asked from the kernel and heard of when they change.

rtnetlink(7), IPv4 and IPv6; costs nothing while nothing changes. Where the kernel or a sandbox
refuses, there are none, and only private ranges count as near (rings.py).
"""

import asyncio
import errno
import logging
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from appliance.access.caller import Address
from appliance.access.rings import Network

log = logging.getLogger("hearth.access")

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_NEWADDR, _GETADDR, _DONE, _ERROR = 20, 22, 3, 2
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_GROUPS = 0x10 | 0x100  # RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_SCOPE_HOST = 254  # loopback
_BUFFER_BYTES = 64 * 1024
_MAX_REPLIES = 64  # a box with thousands of addresses is not ours
_ANSWER_TIMEOUT_S = 2.0
_SETTLE_S = 0.2  # changes come in bunches


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """One address of an interface, and the network that it puts us on."""

    address: Address
    network: Network


def read_addresses() -> list[LinkAddress]:
    """All addresses but loopback's. Raises OSError. Blocking, for milliseconds."""
    found: list[LinkAddress] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_ANSWER_TIMEOUT_S)
        kernel.bind((0, 0))
        body = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        head = _HEADER.pack(_HEADER.size + len(body), _GETADDR, _REQUEST_DUMP, 1, 0)
        kernel.send(head + body)
        for _ in range(_MAX_REPLIES):
            for kind, message in _messages(kernel.recv(_BUFFER_BYTES)):
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    raise OSError(errno.EPROTO, "the kernel does not list addresses")
                if kind == _NEWADDR and (address := _parsed(message)):
                    found.append(address)
    return found


async def watch(on_change: Callable[[list[LinkAddress]], None]) -> None:
    """Call `on_change` with all addresses now and whenever they changed; runs until cancelled."""
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        kernel = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        with kernel:
            kernel.bind((0, _GROUPS))
            while True:
                on_change(await asyncio.to_thread(read_addresses))
                with suppress(BlockingIOError):
                    await _changed(loop, kernel)
    except OSError as error:
        log.warning("addresses of interfaces cannot be followed: %s", error)


async def _changed(loop: asyncio.AbstractEventLoop, kernel: socket.socket) -> None:
    """Wait for the first of a bunch of changes, and take the others with it."""
    try:
        await loop.sock_recv(kernel, _BUFFER_BYTES)
        await asyncio.sleep(_SETTLE_S)
        while kernel.recv(_BUFFER_BYTES):
            pass
    except OSError as error:
        if error.errno != errno.ENOBUFS:  # that many changes: the list is read anew anyway
            raise


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            return
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _parsed(message: bytes) -> LinkAddress | None:
    _, prefix_length, _, scope, _ = _ADDRESS.unpack_from(message)
    attributes = dict(_attributes(message[_ADDRESS.size :]))
    peer = attributes.get(_IFA_ADDRESS)  # the other end on a point-to-point link, else ourselves
    own = attributes.get(_IFA_LOCAL, peer)
    if scope == _SCOPE_HOST or peer is None or own is None:
        return None
    network = ip_network((peer, prefix_length), strict=False)
    return LinkAddress(ip_address(own), network)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return
        yield kind, data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]
