"""How near a caller is: on this machine, on one of our links, or anywhere else. Pure rules.

"LAN" means on-link: inside a prefix of one of our interfaces, or private, unique-local or
link-local. A test for private ranges alone would lock out phones, whose IPv6 addresses are global
ones of the home's own prefix; "global is fine" would let the world in.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from appliance.access.caller import Address, Ring

Network = IPv4Network | IPv6Network

_SITE: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),  # RFC 1918, 3927
        *("fc00::/7", "fe80::/10"),  # RFC 4193, 4291
    )
)
# A shorter prefix on an interface is a mistake or a tunnel to everywhere, and no neighbourhood.
_SHORTEST = {4: 8, 6: 32}


class Neighbourhood:
    """The networks that we are on. Who watches the interfaces sets `prefixes` anew."""

    def __init__(self, prefixes: Iterable[Network] = ()) -> None:
        self.prefixes: tuple[Network, ...] = ()
        self.replace(prefixes)

    def replace(self, prefixes: Iterable[Network]) -> None:
        """Be on these networks from now on."""
        self.prefixes = tuple(
            sorted({p for p in prefixes if p.prefixlen >= _SHORTEST[p.version]}, key=str)
        )

    def has(self, address: Address) -> bool:
        """Whether `address` is on-link."""
        return any(address in network for network in (*_SITE, *self.prefixes))


def ring_of(
    theirs: Address | None, ours: Address | None, near: Neighbourhood, *, is_forwarded: bool
) -> Ring:
    """The ring of a connection from `theirs` to `ours`; None stands for a Unix socket.

    What an unknown proxy passed on may begin anywhere, so that it counts as outside.
    """
    if is_forwarded:
        return Ring.OUTSIDE
    if theirs is None or theirs.is_loopback or theirs == ours:
        return Ring.HERE
    return Ring.LAN if near.has(theirs) else Ring.OUTSIDE
