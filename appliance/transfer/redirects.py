"""Where a registry may send us: never down to plain HTTP, never from outside into this network.

A hostile registry could otherwise make the box read addresses that only the box can reach
(CVE-2026-5530). The check asks the resolver itself; a name that changes its address between check
and connection is not caught.
"""

import asyncio
import socket
from ipaddress import IPv6Address, ip_address

from yarl import URL

from appliance.errors import RegistryError, RegistryUnreachableError

MAX_REDIRECTS = 5
REDIRECTS = frozenset({301, 302, 303, 307, 308})


async def next_hop(url: URL, location: str, *, is_proxied: bool = False) -> URL:
    """The target of a redirect from `url`; raises RegistryError when it may not be followed.

    is_proxied  `url` was asked through a proxy: names may have no address here, and mean the
                outside then
    """
    target = _target(url, location)
    if target is None:
        raise RegistryError(f"{url.origin()} redirects to {location[:200]!r}")
    if url.scheme == "https" and target.scheme == "http":
        raise RegistryError(f"{url.origin()} redirects from https to http, at {target.origin()}")
    if target.host == url.host:
        return target
    if await _is_inward(target, is_proxied) and not await _is_inward(url, is_proxied):
        raise RegistryError(
            f"{url.origin()} redirects into this network, to {target.origin()}",
            hint="if that is meant, name the inner registry itself",
        )
    return target


def _target(url: URL, location: str) -> URL | None:
    """What a Location header means; its escapes are kept, as signatures cover them."""
    try:
        target = url.join(URL(location, encoded=True))
    except ValueError:
        return None
    is_web = target.scheme in {"http", "https"} and bool(target.host)
    return target if location and is_web else None


async def _is_inward(url: URL, is_proxied: bool) -> bool:
    """Whether any address of the host is private, link-local or loopback."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except OSError as error:
        if is_proxied:
            return False
        raise RegistryUnreachableError(f"{url.host} has no address: {error.strerror}") from error
    return any(is_inner(str(entry[4][0])) for entry in found)


def is_inner(address: str) -> bool:
    """Whether an address belongs to this machine or to a network that is not the internet."""
    ip = ip_address(address.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, IPv6Address) else None
    return not (mapped or ip).is_global
