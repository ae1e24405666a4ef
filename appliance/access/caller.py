"""Who sends a request: from where, through which page or app, with which key, and what it may do.

Plain values without IO. `http/guard.py` and `http/access.py` make a `Caller` of each request; all
rooms above read it: limits and shares of queues go by `key`, `user` and `address`, handlers by
`scopes`.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address

MAX_USER_CHARACTERS = 64
_SITE_BITS = 64  # of an IPv6 address; one household's device has all addresses below


class Ring(StrEnum):
    """How near a request begins."""

    HERE = "here"  # this very machine, through no proxy
    LAN = "lan"  # on-link: a neighbour on one of our networks
    OUTSIDE = "outside"  # everything else, and whatever an unknown proxy passed on


class Scope(StrEnum):
    """What a caller may do; each holds those before it."""

    CHAT = "chat"  # infer, list, status
    MANAGE = "manage"  # also change models, bundles and channels
    ADMIN = "admin"  # also keys, audit, media, settings


EVERYTHING = frozenset(Scope)
NOTHING: frozenset[Scope] = frozenset()


class OriginKind(Enum):
    """What the Origin header says about the page or app behind a request."""

    NONE = "none"  # no browser, or a browser's own navigation
    TRUSTED = "trusted"  # our own page, a page on this computer, or one that the settings name
    APP = "app"  # a desktop app or browser extension: may infer, may not change the box


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What is known of a valid key; never its secret."""

    id: str
    name: str
    scopes: frozenset[Scope]
    models: tuple[str, ...] | None = None  # full names that it may use; None: all
    rate_per_minute: int | None = None  # requests
    tokens_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a request comes from and what it may do."""

    address: str  # the peer's; empty for a Unix socket
    ring: Ring
    origin: OriginKind = OriginKind.NONE
    origin_text: str = ""  # the Origin that was admitted; empty if there was none
    key: KeyFacts | None = None
    user: str = ""  # whom a client with a key, or one on this machine, says that it asks for
    scopes: frozenset[Scope] = NOTHING

    @property
    def is_local(self) -> bool:
        """Whether it is on this very machine and came through no proxy."""
        return self.ring is Ring.HERE


def site_of(address: str) -> str:
    """An address as one guest: IPv6 by its /64, which one device fills at will; else as it is."""
    try:
        parsed = ip_address(address)
    except ValueError:  # a Unix socket
        return address
    if isinstance(parsed, IPv6Address) and not parsed.is_link_local:
        return str(ip_network((int(parsed), _SITE_BITS), strict=False))
    return str(parsed)


def expand(scopes: frozenset[Scope]) -> frozenset[Scope]:
    """The scopes with those that each of them holds."""
    order = list(Scope)
    highest = max((order.index(scope) for scope in scopes), default=-1)
    return frozenset(order[: highest + 1])


def clean_user(text: str) -> str:
    """A user id from a header: short, printable, one line."""
    return "".join(c for c in text[:MAX_USER_CHARACTERS] if c.isprintable())
