"""How much each client may ask for: requests per minute, and requests at once.

Pure: the time is handed in. The box itself has no limits. A key has its own, and each user behind
it one more; a guest has those of the settings. The addresses of an IPv6 network are free to
make up, so all guests of one network have a limit together.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from appliance.access.caller import Caller
from appliance.access.shares import crowd_of
from appliance.errors import RateLimitedError

MAX_CLIENTS = 2048  # that are remembered; one takes about 500 bytes
CROWD_FACTOR = 4  # what all guests of an IPv6 network may, in guests
LIGHT = 0.1  # what a request costs that computes nothing, such as a list
_BUSY_RETRY_S = 5  # for who has too many requests running: when one ends is not known

_KEYS = "keys"  # the group of those who are never forgotten


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings. 0 is no limit."""

    guest_rate_per_minute: int = 0
    guest_concurrency: int = 0
    user_rate_per_minute: int = 0


@dataclass(frozen=True, slots=True)
class _Tier:
    """One limit that a caller is under."""

    group: str  # forgotten together when there are too many
    name: str
    who: str  # as the sentence of a refusal says it
    rate_per_minute: int
    concurrency: int
    cure: str


@dataclass(slots=True)
class _Client:
    """A token bucket that holds one minute's requests, and the requests that run."""

    left: float
    at: float  # when `left` was right
    running: int = 0

    def refill(self, rate: int, now: float) -> None:
        """Have `left` right for `now`; a clock that went back gives nothing."""
        self.left = min(float(rate), self.left + max(0.0, now - self.at) * rate / 60)
        self.at = now


Ticket = tuple[_Client, ...]
"""What `enter` gives and `leave` takes back."""


class Limits:
    """Not thread-safe: lives on the event loop."""

    def __init__(self, rules: Rules, max_clients: int = MAX_CLIENTS) -> None:
        self._rules = rules
        self._clients = _Clients(max_clients)

    def enter(self, caller: Caller, now: float, *, computes: bool) -> Ticket:
        """Count a request; call `leave` with the result when it has ended.

        now       seconds of a clock that never goes back
        computes  whether it will use a model; others cost a tenth and may be any number at once

        Raises RateLimitedError; then nothing was counted.
        """
        cost = 1.0 if computes else LIGHT
        found = [(tier, self._clients.find(tier, now)) for tier in self._tiers(caller)]
        for tier, client in found:
            if computes and tier.concurrency and client.running >= tier.concurrency:
                raise RateLimitedError(
                    f"{tier.who} may have {tier.concurrency} requests at once",
                    retry_after_s=_BUSY_RETRY_S,
                    hint=f"send the next when one has ended, {tier.cure}",
                )
            if not tier.rate_per_minute:
                continue
            client.refill(tier.rate_per_minute, now)
            if client.left < cost:
                wait_s = max(1, ceil((cost - client.left) * 60 / tier.rate_per_minute))
                raise RateLimitedError(
                    f"{tier.who} may send {tier.rate_per_minute} requests a minute",
                    retry_after_s=wait_s,
                    hint=f"wait {wait_s} s, {tier.cure}",
                )
        for tier, client in found:
            client.left -= cost if tier.rate_per_minute else 0.0
            client.running += computes
        return tuple(client for _, client in found) if computes else ()

    def leave(self, ticket: Ticket) -> None:
        """The request has ended."""
        for client in ticket:
            client.running -= 1

    def __len__(self) -> int:
        return len(self._clients)

    def _tiers(self, caller: Caller) -> Iterator[_Tier]:
        """The limits that a caller is under, the widest first."""
        rules, key = self._rules, caller.key
        if key is not None:
            cure = "or ask the owner for a higher rate of the key"
            rate = key.rate_per_minute or 0
            if rate:
                yield _Tier(_KEYS, key.id, f"the key {key.name!r}", rate, 0, cure)
            if caller.user and rules.user_rate_per_minute:
                who = "a user behind this key"
                per_user = rules.user_rate_per_minute
                yield _Tier(f"key:{key.id}", caller.user, who, per_user, 0, "or ask the owner")
        elif not caller.is_local:
            cure = "or ask the owner of the box for a key"
            rate, at_once = rules.guest_rate_per_minute, rules.guest_concurrency
            crowd = crowd_of(caller.address)
            if crowd != caller.address:
                who, much = f"all guests of the network {crowd} together", CROWD_FACTOR
                yield _Tier("crowds", crowd, who, much * rate, much * at_once, cure)
            group = crowd if crowd != caller.address else caller.address.rpartition(".")[0]
            yield _Tier(group, caller.address, "a guest without a key", rate, at_once, cure)


class _Clients:
    """Who was seen lately, in groups. When there are too many, the largest group forgets the one
    who was silent longest: who makes up addresses pushes out his own, and keys stay."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._groups: dict[str, OrderedDict[str, _Client]] = {}

    def __len__(self) -> int:
        return self._count

    def find(self, tier: _Tier, now: float) -> _Client:
        """The client of this limit, a new one with a full bucket if it is not known."""
        group = self._groups.get(tier.group)
        if group is not None and (known := group.get(tier.name)) is not None:
            group.move_to_end(tier.name)
            return known
        if self._count >= self._most:
            self._forget_one()
        client = _Client(left=float(tier.rate_per_minute), at=now)
        self._groups.setdefault(tier.group, OrderedDict())[tier.name] = client
        self._count += 1
        return client

    def _forget_one(self) -> None:
        names = sorted(self._groups, key=lambda name: len(self._groups[name]), reverse=True)
        for name in names:
            if name == _KEYS:
                continue
            group = self._groups[name]
            idle = next((who for who, client in group.items() if not client.running), None)
            if idle is not None:
                del group[idle]
                self._count -= 1
                if not group:
                    del self._groups[name]
                return
        raise RateLimitedError(
            f"{self._count} clients have requests running, more are not counted",
            retry_after_s=_BUSY_RETRY_S,
            hint="try again when some have ended",
        )
