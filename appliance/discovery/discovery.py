"""Being found, and finding others: what is announced on which LAN, under which name.

One task owns all links and takes one turn at a time: `run_forever`. It sleeps until the network
changes, a conflict is heard, or facts change; nothing is polled but a question for neighbours every
ten minutes. python-zeroconf is imported only when something is announced.
"""

import asyncio
import importlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING

from appliance.box import Box
from appliance.config import Settings
from appliance.discovery.alive import ask_all
from appliance.discovery.browse import on_link, questions
from appliance.discovery.conflicts import Identity, Verdict, is_taken, judge
from appliance.discovery.heard import Heard
from appliance.discovery.lans import Lan, lans_of, shown_addresses
from appliance.discovery.neighbours import Neighbour, Table
from appliance.discovery.records import Facts, Service, services_of
from appliance.logs import Fields
from appliance.network import Network

if TYPE_CHECKING:
    from appliance.discovery.mdns import Link

log = logging.getLogger("hearth.discovery")

RETRY_S = 60.0  # while port 5353 is closed to us
BROWSE_S = 600.0
BROWSE_BEGIN_S = (0.0, 1.0, 3.0)  # after a link came up
REPEAT_GAP_S = 1.0  # between defences of our names (RFC 6762, 6: a record once a second)
AGAIN_S = 1.1  # after an announcement: caches drop others' records of our names that are 1 s old
MAX_REPEATS = 3
MAX_YIELDS, YIELD_WINDOW_S = 10, 600.0  # who forges conflicts gets no more than that
CHECK_PAUSE_S = 0.5
CHECKS_AT_ONCE = 16
FRESH_S = 10.0  # how long a live check is good for


class Word(StrEnum):
    """The state of discovery in one word."""

    ON = "on"
    OFF = "off"  # by the settings
    LOOPBACK = "loopback"  # the service listens for this machine alone
    BLOCKED = "blocked"  # it should be on and cannot


@dataclass(frozen=True, slots=True)
class DiscoveryStatus:
    """What is announced now. `problem` is one sentence, or empty; names are empty unless on."""

    word: Word
    problem: str = ""
    instance: str = ""
    host: str = ""  # without a final dot
    addresses: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()


class Discovery:
    """Announces the box and knows its neighbours."""

    def __init__(
        self, settings: Settings, box: Box, network: Network, facts: Callable[[], Facts]
    ) -> None:
        self.box = box  # renumbered here when another box has its name
        self.on_change: list[Callable[[], None]] = []  # of status or neighbours; in the loop
        self._settings = settings
        self._network = network
        self._facts = facts
        self._bound: tuple[str, ...] = ()
        self._port = 0
        self._links: dict[str, Link] = {}  # by interface
        self._services: tuple[Service, ...] = ()  # as announced
        self._identity: Identity | None = None  # of what is announced or probed for
        self._is_probing = self._is_taken = False
        self._table = Table()
        self._word = Word.OFF
        self._problem = ""
        self._wake = asyncio.Event()
        self._must_yield = False
        self._repeats: list[float] = []  # when to say again what is announced
        self._repeated_at = 0.0
        self._yields: deque[float] = deque(maxlen=MAX_YIELDS)
        self._keeps_until = 0.0  # no yielding before
        self._browses: list[float] = []
        self._unchecked = asyncio.Event()
        self._checked_at = 0.0

    # -- what others ask ---------------------------------------------------------------------

    def status(self) -> DiscoveryStatus:
        """What is announced now."""
        if self._word is not Word.ON or not self._links:
            return DiscoveryStatus(self._word, self._problem)
        return DiscoveryStatus(
            self._word,
            self._problem,
            self.box.instance_name,
            self.box.host_name,
            tuple(self.addresses()),
            tuple(sorted(self._links)),
        )

    def addresses(self) -> list[str]:
        """Our announced addresses, as people should see them: IPv4 first."""
        return shown_addresses(link.lan for link in self._links.values())

    def own_hosts(self) -> frozenset[str]:
        """What a Host header may carry because we announce it: host name and addresses."""
        if not self._links:
            return frozenset()
        announced = (a for link in self._links.values() for a in link.lan.addresses)
        return frozenset({self.box.host_name, *announced})

    def neighbours(self) -> list[Neighbour]:
        """The other model servers on our links."""
        now = time.monotonic()
        self._table.expire(now)
        own = {(service.host.rstrip(".").lower(), service.port) for service in self._services}
        rows = self._table.neighbours(clock_s=time.time() - now)
        return [row for row in rows if row.key not in own]

    async def look_again(self) -> None:
        """Ask the neighbours whether they are alive, unless that is known. At most four seconds."""
        if time.monotonic() - self._checked_at > FRESH_S:
            self._checked_at = time.monotonic()
            await self._check(self.neighbours())

    def refresh(self) -> None:
        """The facts changed: announce them."""
        self._wake.set()

    # -- its life ----------------------------------------------------------------------------

    async def run_forever(self, bound: Sequence[tuple[str, int]]) -> None:
        """Announce a service that listens on `bound`, and follow whatever changes, for ever.

        Ends at once if there is nothing to announce.
        """
        self._bound = tuple(host for host, _ in bound)
        self._port = bound[0][1]
        if self._settings.discovery == "off":
            return
        if all(ip_address(host).is_loopback for host in self._bound):
            self._word = Word.LOOPBACK
            return
        self._word = Word.ON
        await asyncio.to_thread(importlib.import_module, "appliance.discovery.mdns")
        self._network.on_change.append(self._wake.set)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._check_forever())
            while True:
                self._wake.clear()
                await self._turn()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s()):
                        await self._wake.wait()

    async def close(self) -> None:
        """Say goodbye on every link, which takes 0.3 s. `run_forever` must not run any more."""
        links, self._links = list(self._links.values()), {}
        self._identity = None
        self._word = Word.OFF
        # Whatever turn was interrupted: what was announced somewhere is taken back everywhere.
        await asyncio.gather(*(link.close(goodbye_to=self._services) for link in links))

    async def _turn(self) -> None:
        """Have the links agree with the network, our names with the links, and ask around."""
        before = self.status()
        if self._must_yield:
            self._must_yield = False
            await self._yield()
        new = await self._follow_lans()
        services = services_of(self.box, self._port, self._facts())
        try:
            if services != self._services or new:
                await self._announce(services, new)
            elif any(at <= time.monotonic() for at in self._repeats):
                await self._repeat()
        except _failures() as error:
            self._services = ()  # to be tried as a whole
            self._set_blocked(error)
        if self._services:
            self._identity = self._identity_of(self._services)  # addresses may have changed
        self._browse(time.monotonic())
        if self.status() != before:
            self._tell()

    async def _follow_lans(self) -> list["Link"]:
        """Close links that are no more, open those that are new; returns the new ones."""
        wanted = {
            lan.interface: lan
            for lan in lans_of(
                self._network.interfaces, self._settings.discovery_interfaces, self._bound
            )
        }
        new, failure = [], None
        for name in self._links.keys() | wanted.keys():
            old, lan = self._links.get(name), wanted.get(name)
            if old is not None and old.lan == lan:
                continue
            try:
                if lan is None:
                    del self._links[name]
                    self._table.forget(name)
                else:  # before the old one is closed: there is always one to say goodbye on
                    self._links[name] = link = await self._open(lan)
                    new.append(link)
            except _failures() as error:
                failure = error
                self._links.pop(name, None)
            if old is not None:
                await old.close()
        if failure is not None:
            self._set_blocked(failure)
        elif not wanted:
            self._word, self._problem = Word.ON, "no network: no interface has a usable address"
        else:
            self._word, self._problem = Word.ON, ""
        return new

    async def _open(self, lan: Lan) -> "Link":
        from appliance.discovery.mdns import Link

        def hear(records: list[Heard]) -> None:
            self._hear(lan.interface, records)

        now = time.monotonic()
        self._browses = [now + after_s for after_s in BROWSE_BEGIN_S]
        return await Link.open(lan, hear)

    # -- our names ---------------------------------------------------------------------------

    async def _announce(self, services: tuple[Service, ...], new: list["Link"]) -> None:
        """Announce `services`, on all links if they changed, else on the new ones.

        Names that this box did not announce since it was switched on are asked for first, until
        there are some that nobody has.
        """
        links = new if services == self._services else list(self._links.values())
        if not links:
            return
        is_new = not self._services or services[0].name != self._services[0].name
        # A service that starts again announces at once: who took its name meanwhile is heard.
        if is_new and not self.box.is_announced:
            services = await self._find_free(services, links)
        self._services = services
        self._identity = self._identity_of(services)
        await asyncio.gather(*(link.announce(services) for link in links))
        self._repeated_at = time.monotonic()
        self._repeats = [self._repeated_at + AGAIN_S]
        said = {"name": self.box.instance_name, "host": self.box.host_name}
        log.info("announced %s", Fields({**said, "interfaces": ",".join(sorted(self._links))}))
        if not self.box.is_announced:
            self.box = self.box.as_announced()
            await asyncio.to_thread(self._save, self.box)

    def _save(self, box: Box) -> None:
        try:
            box.save(self._settings.state)
        except OSError as error:
            log.warning("the number of the name is not kept: %s", error.strerror)

    async def _find_free(
        self, services: tuple[Service, ...], links: list["Link"]
    ) -> tuple[Service, ...]:
        for _ in range(MAX_YIELDS):
            self._identity = self._identity_of(services)
            self._is_probing, self._is_taken = True, False
            try:
                probes = (link.probe(services, lambda: self._is_taken) for link in links)
                if not any(await asyncio.gather(*probes)):
                    break
            finally:
                self._is_probing = False
            self._renumber()
            services = services_of(self.box, self._port, self._facts())
        return services

    async def _repeat(self) -> None:
        self._repeated_at = now = time.monotonic()
        self._repeats = [at for at in self._repeats if at > now]
        await asyncio.gather(*(link.repeat() for link in self._links.values()))

    async def _yield(self) -> None:
        """Take the next number, unless somebody makes us do it again and again."""
        now = time.monotonic()
        if len(self._yields) == MAX_YIELDS and now - self._yields[0] < YIELD_WINDOW_S:
            log.warning("names disputed host=%s: kept, whoever else has them", self.box.host_name)
            self._keeps_until = now + YIELD_WINDOW_S
            return
        self._yields.append(now)
        self._renumber()
        self._identity = None
        links, self._links = list(self._links.values()), {}
        await asyncio.gather(*(link.leave() for link in links))

    def _renumber(self) -> None:
        old, self.box = self.box, self.box.renumbered(self.box.number + 1)
        said = {"name": old.instance_name, "host": old.host_name, "now": self.box.host_name}
        log.warning("name taken by another box %s", Fields(said))

    def _identity_of(self, services: tuple[Service, ...]) -> Identity:
        current = {str(a.ip) for i in self._network.interfaces for a in i.addresses}
        return Identity.of(self.box, services, current)

    # -- what is heard -----------------------------------------------------------------------

    def _hear(self, lan: str, records: list[Heard]) -> None:
        """Called in the event loop for each packet."""
        if self._identity is not None:
            if self._is_probing:
                self._is_taken |= is_taken(self._identity, records)
            else:
                self._note(judge(self._identity, records))
        near = on_link(records, lan, self._network.interfaces)
        if self._table.hear(lan, near, time.monotonic()):
            self._unchecked.set()
            self._tell()

    def _note(self, verdict: Verdict) -> None:
        if verdict is Verdict.NOTHING:
            return
        if verdict is Verdict.YIELD:
            self._must_yield = time.monotonic() >= self._keeps_until
        elif len(self._repeats) < MAX_REPEATS:
            at = max(time.monotonic(), self._repeated_at + REPEAT_GAP_S)
            self._repeats += [at, at + AGAIN_S]
        else:
            return
        self._wake.set()

    def _browse(self, now: float) -> None:
        """Ask for neighbours when it is time."""
        if not any(at <= now for at in self._browses):
            return
        self._browses = [at for at in self._browses if at > now] or [now + BROWSE_S]
        for name, link in self._links.items():
            link.ask(questions(self._table, name))

    async def _check_forever(self) -> None:
        """Ask each new neighbour once whether it is alive."""
        while True:
            await self._unchecked.wait()
            await asyncio.sleep(CHECK_PAUSE_S)  # the rest of what it says comes in other packets
            self._unchecked.clear()
            new = [row for row in self.neighbours() if row.is_alive is None and row.is_reachable]
            if len(new) > CHECKS_AT_ONCE:
                self._unchecked.set()
            await self._check(new[:CHECKS_AT_ONCE])

    async def _check(self, rows: Sequence[Neighbour]) -> None:
        reachable = [row for row in rows if row.is_reachable]
        for row, is_alive, version in await ask_all(reachable):
            self._table.check(row.key, is_alive, version)
        if reachable:
            self._tell()

    # -- small things ------------------------------------------------------------------------

    def _pause_s(self) -> float:
        now = time.monotonic()
        last = now + (RETRY_S if self._word is Word.BLOCKED else BROWSE_S)
        return max(0.0, min([*self._browses, *self._repeats, last]) - now)

    def _set_blocked(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        problem = f"mDNS is not to be had on UDP port 5353: {reason}"
        if problem != self._problem:
            log.warning("discovery blocked: %s; tried again every minute", problem)
        self._word, self._problem = Word.BLOCKED, problem

    def _tell(self) -> None:
        for told in self.on_change:
            told()


def _failures() -> tuple[type[Exception], ...]:
    from appliance.discovery.mdns import FAILURES

    return FAILURES
