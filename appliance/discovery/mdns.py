"""One link spoken to by python-zeroconf: announce, probe, ask, hear. Knows no policy.

The only module that imports zeroconf, and only imported when something is announced or browsed.
"""

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Self

from zeroconf import (
    BadTypeInNameException,
    DNSAddress,
    DNSOutgoing,
    DNSPointer,
    DNSQuestion,
    DNSService,
    DNSText,
    NotRunningException,
    RecordUpdate,
    RecordUpdateListener,
    ServiceInfo,
    Zeroconf,
)
from zeroconf.asyncio import AsyncZeroconf

from appliance.discovery.heard import Heard, Kind
from appliance.discovery.lans import Lan
from appliance.discovery.records import HOST_TTL_S, OTHER_TTL_S, Service

# What strangers send can make it log; what concerns us is raised and logged by discovery.py.
logging.getLogger("zeroconf").setLevel(logging.CRITICAL)

PROBES = 3  # RFC 6762, 8.1
PROBE_GAP_S = 0.175  # python-zeroconf's spacing, not the RFC's 250 ms; the guard hears who is later
PROBE_RANDOM_S = 0.1
GOODBYES, GOODBYE_GAP_S = 3, 0.125
CACHE_BYTES = 512 * 1024  # of records that others said, before all of it is forgotten
_RECORD_BYTES = 400  # a cached record beside its text, about

_QUERY, _RESPONSE = 0x0000, 0x8400
_ANY, _IN, _UNIQUE = 255, 1, 0x8000  # RFC 6762: the top bit asks for an answer to us alone
_A, _AAAA = 1, 28
_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29  # linux/in.h, linux/in6.h

# RuntimeError: an address went away while its socket was made.
FAILURES = (OSError, RuntimeError, NotRunningException, BadTypeInNameException)

Hear = Callable[[list[Heard]], None]


class Link(RecordUpdateListener):
    """mDNS on one LAN.

    `hear` gets the records of each packet, our own too, in the event loop; none when old ones ran
    out.
    """

    def __init__(self, lan: Lan, zeroconf: AsyncZeroconf, hear: Hear) -> None:
        super().__init__()
        self.lan = lan
        self._zeroconf = zeroconf
        self._hear = hear
        self._infos: list[ServiceInfo] = []
        self._broadcasts: set[asyncio.Future[Any]] = set()
        self._cached_bytes = 0

    @classmethod
    async def open(cls, lan: Lan, hear: Hear, *, is_one_shot: bool = False) -> Self:
        """Open the sockets and listen. Raises FAILURES when port 5353 or an address is not to be
        had.

        A one-shot link asks from a port of its own and hears only the answers.
        """
        zeroconf = AsyncZeroconf(interfaces=list(lan.senders), unicast=is_one_shot)
        link = cls(lan, zeroconf, hear)
        try:
            await zeroconf.zeroconf.async_wait_for_start()
        except BaseException:
            await zeroconf.async_close()
            raise
        for reader in zeroconf.zeroconf.engine.readers:
            _only_own_groups(reader.sock)
        zeroconf.zeroconf.async_add_listener(link, None)
        return link

    async def probe(self, services: Sequence[Service], is_taken: Callable[[], bool]) -> bool:
        """Ask whether somebody has these names; True once `is_taken()`, False after all probes."""
        await asyncio.sleep(PROBE_RANDOM_S * random.random())
        for number in range(PROBES):
            self._zeroconf.zeroconf.async_send(self._probe_packet(services, number))
            await asyncio.sleep(PROBE_GAP_S)
            if is_taken():
                return True
        return False

    async def announce(self, services: Iterable[Service]) -> None:
        """Say that these are ours, at once and twice more within half a second. No probing.

        What was announced before is dropped without a goodbye.
        """
        self._stop_broadcasts()
        self._zeroconf.zeroconf.registry.async_remove(self._infos)
        self._infos = [self._info(service) for service in services]
        register = self._zeroconf.async_register_service
        calls = [register(info, cooperating_responders=True) for info in self._infos]
        self._follow(await asyncio.gather(*calls))

    async def repeat(self) -> None:
        """Say again what was announced."""
        calls = [self._zeroconf.async_update_service(info) for info in self._infos]
        self._follow(await asyncio.gather(*calls))

    def ask(self, questions: Iterable[tuple[str, Kind]]) -> None:
        """Send one query; the answers come to `hear`."""
        packet = DNSOutgoing(_QUERY)
        for name, kind in questions:
            types = (_A, _AAAA) if kind is Kind.ADDRESS else (kind.value,)
            for number in types:
                packet.add_question(DNSQuestion(name, number, _IN))
            if kind is Kind.SERVICE:
                packet.add_question(DNSQuestion(name, Kind.TEXT.value, _IN))
        if packet.questions:
            self._zeroconf.zeroconf.async_send(packet)

    async def leave(self) -> None:
        """Close, leaving the names to another box: only our addresses are taken back from the host
        name, because a goodbye for the services would be one for that box's too.

        The sockets go with it, for python-zeroconf may have answers under the old names queued.
        """
        packet = DNSOutgoing(_RESPONSE)
        for info in self._infos[:1]:
            for record in info.dns_addresses(override_ttl=0):
                packet.add_answer_at_time(record, 0)
            self._zeroconf.zeroconf.async_send(packet)
        await self.close()

    def _goodbye(self, infos: list[ServiceInfo], number: int) -> DNSOutgoing:
        """A packet that takes everything back; each number gives other bytes, because receivers
        may take the same packet within a second for one (python-zeroconf does)."""
        packet = DNSOutgoing(_RESPONSE)
        for info in (*infos[number:], *infos[:number]):
            packet.add_answer_at_time(info.dns_pointer(override_ttl=0), 0)
            packet.add_answer_at_time(info.dns_service(override_ttl=0), 0)
            packet.add_answer_at_time(info.dns_text(override_ttl=0), 0)
        for record in infos[0].dns_addresses(override_ttl=0):
            packet.add_answer_at_time(record, 0)
        return packet

    async def close(self, goodbye_to: Sequence[Service] = ()) -> None:
        """Close the sockets. First take these services back, which takes 0.3 s, so that lists
        elsewhere forget them."""
        self._stop_broadcasts()
        inner = self._zeroconf.zeroconf
        inner.async_remove_listener(self)
        inner.registry.async_remove(self._infos)  # zeroconf's own goodbyes are all the same
        infos = [self._info(service) for service in goodbye_to]
        for number in range(GOODBYES if infos else 0):
            if number:  # an answer that was queued before may have come between
                await asyncio.sleep(GOODBYE_GAP_S)
            inner.async_send(self._goodbye(infos, number))
        with suppress(OSError):
            await self._zeroconf.async_close()

    def async_update_records(self, zc: Zeroconf, now: float, records: list[RecordUpdate]) -> None:
        """Called by zeroconf for each packet, and when records of its cache expire."""
        heard = []
        has_expired = False
        for update in records:
            if update.old is None:
                text = update.new.text if isinstance(update.new, DNSText) else b""
                self._cached_bytes += _RECORD_BYTES + len(text)
            if update.old is update.new:
                has_expired = True
            elif (record := _heard(update.new)) is not None:
                heard.append(record)
        if heard or has_expired:
            self._hear(heard)

    def async_update_records_complete(self) -> None:
        """Called when the cache took them in: keep it small, whoever floods the link."""
        if self._cached_bytes > CACHE_BYTES:
            cache = self._zeroconf.zeroconf.cache
            for name in cache.names():
                cache.async_remove_records(cache.async_entries_with_name(name))
            self._cached_bytes = 0

    def _stop_broadcasts(self) -> None:
        for broadcast in self._broadcasts:
            broadcast.cancel()

    def _info(self, service: Service) -> ServiceInfo:
        return ServiceInfo(
            service.type,
            service.name,
            port=service.port,
            properties=dict(service.txt),
            server=service.host,
            parsed_addresses=list(self.lan.addresses),
            host_ttl=HOST_TTL_S,
            other_ttl=OTHER_TTL_S,
        )

    def _probe_packet(self, services: Sequence[Service], number: int) -> DNSOutgoing:
        packet = DNSOutgoing(_QUERY)
        # Later ones are asked for all to hear, because another program on this machine may get what
        # is answered to port 5353.
        class_ = _IN | _UNIQUE if number == 0 else _IN
        for name in dict.fromkeys([services[0].host, *(service.name for service in services)]):
            packet.add_question(DNSQuestion(name, _ANY, class_))
        for service in services:  # what marks a probe, which is answered without delay
            packet.add_authorative_answer(self._info(service).dns_pointer())
        return packet

    def _follow(self, broadcasts: Iterable[Awaitable[Any]]) -> None:
        for broadcast in broadcasts:
            task = asyncio.ensure_future(broadcast)
            self._broadcasts.add(task)
            task.add_done_callback(self._broadcasts.discard)


def _heard(record: object) -> Heard | None:
    if isinstance(record, DNSAddress):
        try:
            address = str(ip_address(record.address))
        except ValueError:
            return None
        return Heard(Kind.ADDRESS, record.name, int(record.ttl), address=address)
    if isinstance(record, DNSPointer):
        return Heard(Kind.POINTER, record.name, int(record.ttl), target=record.alias)
    if isinstance(record, DNSService):
        ttl, target = int(record.ttl), record.server
        return Heard(Kind.SERVICE, record.name, ttl, target=target, port=record.port)
    if isinstance(record, DNSText):
        return Heard(Kind.TEXT, record.name, int(record.ttl), text=record.text)
    return None


def _only_own_groups(sock: socket.socket) -> None:
    """Hear only the groups that this socket joined: Linux gives every socket what any other of the
    machine joined, so that each link would hear, and answer, the questions of all LANs."""
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    if sock.family == socket.AF_INET6:
        with suppress(OSError):  # before Linux 4.20
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
