"""Which interfaces are a LAN, and what is announced on each. Pure rules.

No LAN hears addresses of another one: a phone would try them first and wait for a timeout.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import ip_address

from appliance.network import Interface, IpInterface

# Containers, virtual machines, tunnels, modems, and the USB side of a board that is a gadget.
NOT_LANS = (
    *("docker*", "veth*", "br-*", "cni*", "flannel*", "cali*", "podman*", "lxc*", "lxd*", "virbr*"),
    *("vnet*", "tun*", "tap*", "wg*", "tailscale*", "zt*", "ppp*", "wwan*", "dummy*", "ifb*"),
    *("usb*", "l4tbr*", "rndis*"),
)


@dataclass(frozen=True, slots=True)
class Lan:
    """One link: what is said there and from where."""

    interface: str
    addresses: tuple[str, ...]  # that clients on this link are told; IPv4 first
    senders: tuple[str, ...]  # our own address of each family that mDNS is spoken from


def lans_of(
    interfaces: Iterable[Interface], listed: Sequence[str], bound: Sequence[str]
) -> tuple[Lan, ...]:
    """The LANs of a service that listens on the addresses `bound`.

    `0.0.0.0` and `::` stand for every address of their family. `listed` are patterns of interface
    names; if there are none, whatever does not look like something else counts.
    """
    usable = [i for i in interfaces if _is_lan(i, listed)]
    found = []
    for interface in usable:
        near = [a for other in usable if _share_link(interface, other) for a in other.addresses]
        served = sorted({a for a in near if _is_served(a, bound)}, key=_order)
        # A link-local address is of use only with a zone, which a browser cannot be told.
        told = [a for a in served if not a.is_link_local] or served
        if told:
            texts = tuple(str(a.ip) for a in told)
            found.append(Lan(interface.name, texts, _senders(interface)))
    return tuple(found)


def shown_addresses(lans: Iterable[Lan]) -> list[str]:
    """All announced addresses as people should see them: IPv4 first, link-local ones last."""
    addresses = dict.fromkeys(address for lan in lans for address in lan.addresses)

    def order(address: str) -> tuple[bool, int]:
        parsed = ip_address(address)
        return parsed.is_link_local, parsed.version

    return sorted(addresses, key=order)


def _is_lan(interface: Interface, listed: Sequence[str]) -> bool:
    if not (interface.is_up and interface.has_carrier and interface.addresses):
        return False
    if listed:
        return any(fnmatchcase(interface.name, pattern) for pattern in listed)
    if interface.is_loopback or interface.is_point_to_point:
        return False
    return not any(fnmatchcase(interface.name, pattern) for pattern in NOT_LANS)


def _share_link(one: Interface, other: Interface) -> bool:
    """Whether both are on one link, as cable and Wi-Fi of one network are (fe80::/64 is on all)."""
    if one is other:
        return True
    networks = [{a.network for a in i.addresses if not a.is_link_local} for i in (one, other)]
    return bool(networks[0] & networks[1])


def _is_served(address: IpInterface, bound: Sequence[str]) -> bool:
    every = "0.0.0.0" if address.version == 4 else "::"  # noqa: S104 - compared, not bound
    return every in bound or str(address.ip) in bound


def _order(address: IpInterface) -> tuple[int, bool, IpInterface]:
    return address.version, address.is_link_local, address


def _senders(interface: Interface) -> tuple[str, ...]:
    """One address of each family, for IPv6 a link-local one if there is one (RFC 6762, 11)."""
    four = [a for a in interface.addresses if a.version == 4]
    six = sorted((a for a in interface.addresses if a.version == 6), key=_is_routable)
    return tuple(str(family[0].ip) for family in (four, six) if family)


def _is_routable(address: IpInterface) -> bool:
    return not address.is_link_local
