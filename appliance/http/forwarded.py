"""Where a request began that a proxy passed on. Pure rules.

Anybody can write forwarding headers, so they are believed only of proxies that the settings name,
and of their words only the last ones: each proxy adds the address that it saw to the right.
"""

import re
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from multidict import CIMultiDictProxy

from appliance.access.caller import Address
from appliance.access.rings import Network

FORWARDING = frozenset(
    {
        "forwarded",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
        "true-client-ip",
    }
)
MAX_HOPS = 20  # a home has one proxy, a site two
_TUNNELS = ("true-client-ip", "cf-")  # a tunnel from the internet says where it began
_PORT = re.compile(r"(?:\[(?P<six>[^\]]*)\]|(?P<four>[0-9.]+))(?::[0-9_]{1,6})?")
_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*(?:"(?P<quoted>[^"]*)"|(?P<plain>[^;\s]*))\s*(?=;|$)', re.I)


def is_forwarded(headers: CIMultiDictProxy[str]) -> bool:
    """Whether a proxy or tunnel passed the request on, so that the peer is not its origin."""
    names = {name.lower() for name in headers}
    return bool(names & FORWARDING) or any(name.startswith("cf-") for name in names)


def origin_of(
    headers: CIMultiDictProxy[str], peer: Address | None, trusted: Iterable[Network]
) -> Address | None:
    """The address that a forwarded request came from, None if nobody trustworthy says it.

    `peer` is the other end of the connection. The answer is the last hop that is no trusted
    proxy. Where both headers are there they must agree, since most proxies write but one of them
    and pass the other on as the client wrote it.
    """
    networks = tuple(trusted)
    if peer is None or not _is_in(peer, networks):
        return None
    if any(name.lower().startswith(_TUNNELS) for name in headers):
        return None
    lists = [
        [_address(hop) for value in headers.getall(name, []) for hop in split(value)]
        for name, split in (("X-Forwarded-For", _split), ("Forwarded", _split_forwarded))
        if name in headers
    ]
    found = {_last_stranger(hops, networks) for hops in lists}
    return found.pop() if len(found) == 1 else None


def _last_stranger(hops: Sequence[Address | None], trusted: Sequence[Network]) -> Address | None:
    """The right-most hop outside of `trusted`; the first one if all are inside."""
    if not hops or len(hops) > MAX_HOPS:
        return None
    for hop in reversed(hops):
        if hop is None or not _is_in(hop, trusted):
            return hop
    return hops[0]


def _split(value: str) -> list[str]:
    return value.split(",")


def _split_forwarded(value: str) -> list[str]:
    """The `for` of each element (RFC 7239 §4); "" where an element has none or more than one."""
    found = []
    for element in value.split(","):
        names = list(_FOR.finditer(element.strip()))
        hop = names[0]["quoted"] or names[0]["plain"] or "" if len(names) == 1 else ""
        found.append(hop)
    return found


def _address(hop: str) -> Address | None:
    """An address with or without port; None for anything else, such as `unknown`."""
    text = hop.strip()
    if match := _PORT.fullmatch(text):
        text = match["six"] or match["four"] or ""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address.version == 6 else None
    return mapped or address


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
