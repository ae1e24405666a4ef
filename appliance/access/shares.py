"""Whose share of the box a request takes: its place in queues, its cache, and who pays.

Pure values. Rooms that serve jobs know of a caller nothing else.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Protocol

from appliance.access.caller import Caller

Path = tuple[str, ...]  # "models/queue.py" gives turns to paths

BOX: Path = ("box", "")  # the box itself: the only one that may fill a whole queue
GUESTS = "guests"
_CROWD_BITS = 64


class Purse(Protocol):
    """Pays for jobs, in tokens."""

    def check(self) -> None:
        """Raise BudgetSpentError if there is nothing left."""

    def charge(self, tokens: int) -> None:
        """Pay for what was computed."""


class _Endless:
    def check(self) -> None:
        pass

    def charge(self, tokens: int) -> None:
        pass


ENDLESS: Purse = _Endless()


@dataclass(frozen=True, slots=True)
class Share:
    """What a job needs to know of who asked for it; by default the box itself."""

    path: Path = BOX
    salt: str = ""  # prompts share cached KV only with those of an equal salt
    purse: Purse = field(default=ENDLESS, compare=False)


BOX_SHARE = Share()


def share_of(caller: Caller, purse: Purse = ENDLESS) -> Share:
    """A key is one client, its users take turns within it. All guests together are one client too,
    so that being many gets them nothing from those with keys."""
    if caller.key is not None:
        return Share((f"key:{caller.key.id}", caller.user), f"key:{caller.key.id}", purse)
    if caller.is_local:
        return Share((BOX[0], caller.user), "", purse)
    crowd = crowd_of(caller.address)
    return Share((GUESTS, crowd, caller.address), crowd, purse)


@lru_cache(maxsize=1024)  # asked several times per request, and slow to parse
def crowd_of(address: str) -> str:
    """Whom a guest may be one of many of: in IPv6 its /64, of which anybody on the link takes any
    address it likes, link-local ones too; in IPv4 itself."""
    parsed = ip_address(address) if address else None
    if isinstance(parsed, IPv6Address):
        return str(ip_network((int(parsed), _CROWD_BITS), strict=False))
    return address
