"""Whether somebody else on the link goes by our names, and who of the two must yield. Pure rules.

python-zeroconf looks for a taken instance name while it registers, never for a taken host name, and
never again. Boxes that meet later (a switch that booted after them, a cable) would answer for each
other. Both sides judge alike, so that exactly one yields.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address

from appliance.box import Box
from appliance.discovery.heard import Heard, Kind, parse_text
from appliance.discovery.records import HEARTH, Service

Address = IPv4Address | IPv6Address

TAIL = 6  # digits of the id in a host name
_OUR_KIND = re.compile(r"hearth-([0-9a-f]{6})(?:-\d+)?\.local\.")


class Verdict(Enum):
    """What to do about what was heard."""

    NOTHING = "nothing"
    ANNOUNCE = "announce"  # the names stay ours: say them again
    YIELD = "yield"  # take the next number


@dataclass(frozen=True, slots=True)
class Identity:
    """Our names as announced on one link, and the addresses that are ours on any link."""

    id: str
    services: tuple[Service, ...]
    addresses: frozenset[str]

    @classmethod
    def of(cls, box: Box, services: Iterable[Service], addresses: Iterable[str]) -> "Identity":
        return cls(box.id, tuple(services), frozenset(addresses))

    @property
    def names(self) -> frozenset[str]:
        """Every name that must be ours alone, lower case."""
        return frozenset(n.lower() for s in self.services for n in (s.name, s.host))


def is_taken(ours: Identity, heard: Iterable[Heard]) -> bool:
    """Whether the records of one packet say that somebody else has one of our names."""
    return bool(_foreign(ours, heard))


def judge(ours: Identity, heard: Collection[Heard]) -> Verdict:
    """What to do about the records of one packet."""
    if foreign := _foreign(ours, heard):
        return Verdict.YIELD if _must_yield(ours, heard, foreign) else Verdict.ANNOUNCE
    if any(record.ttl_s == 0 and _is_ours(ours, record) for record in heard):
        return Verdict.ANNOUNCE  # somebody else said goodbye for us
    return Verdict.NOTHING


def _foreign(ours: Identity, heard: Iterable[Heard]) -> list[Heard]:
    names = ours.names
    mine = (record for record in heard if record.ttl_s and record.name.lower() in names)
    return [record for record in mine if _is_foreign(ours, record)]


def _is_foreign(ours: Identity, record: Heard) -> bool:
    """Whether the record says something of our name that we do not say."""
    if record.kind is Kind.ADDRESS:
        # Our own packet may come back through a container bridge or a second interface, with an
        # address that only means something there.
        address = ip_address(record.address)
        is_odd = address.is_loopback or address.is_link_local or address.is_unspecified
        return not is_odd and record.address not in ours.addresses
    service = _service(ours, record)
    if service is None:
        return False
    if record.kind is Kind.SERVICE:
        return record.target.lower() != service.host.lower() or record.port != service.port
    if record.kind is Kind.TEXT and service.type == HEARTH:
        return parse_text(record.text).get("id") != ours.id
    return False


def _is_ours(ours: Identity, record: Heard) -> bool:
    if record.kind is Kind.ADDRESS:
        return record.name.lower() in ours.names and record.address in ours.addresses
    return record.kind is Kind.SERVICE and _service(ours, record) is not None


def _service(ours: Identity, record: Heard) -> Service | None:
    name = record.name.lower()
    return next((each for each in ours.services if each.name.lower() == name), None)


def _must_yield(ours: Identity, heard: Collection[Heard], foreign: list[Heard]) -> bool:
    """The greater id yields; of two cards written from one image, the greater address.

    Who is no Hearth box knows nothing of this rule, so that we yield.
    """
    theirs = _tail_of(foreign)
    if theirs is None:
        return True
    if theirs and theirs != ours.id[-TAIL:]:
        return theirs < ours.id[-TAIL:]
    own_names = ours.names
    them = [ip_address(r.address) for r in heard if r.address and r.name.lower() in own_names]
    us = [ip_address(address) for address in ours.addresses]
    for version in (4, 6):  # one family decides, or both could yield
        their = [int(a) for a in them if _counts(a, version) and str(a) not in ours.addresses]
        own = [int(a) for a in us if _counts(a, version)]
        if their and own:
            return min(their) < min(own)
    return False


def _counts(address: Address, version: int) -> bool:
    return address.version == version and not address.is_link_local


def _tail_of(foreign: list[Heard]) -> str | None:
    """The end of the other box's id, which its host name shows too, so that both sides compare the
    same; empty if only addresses are foreign (then its host name is ours); None if it is no box of
    our kind."""
    for record in foreign:
        if record.kind is Kind.TEXT and (found := parse_text(record.text).get("id")):
            return found[-TAIL:]
        if record.kind is Kind.SERVICE and (match := _OUR_KIND.fullmatch(record.target.lower())):
            return match[1]
    return "" if all(record.kind is Kind.ADDRESS for record in foreign) else None
