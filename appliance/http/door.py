"""The door: who may hold a connection, how long a request may take to arrive, and how many.

One Door is one listening address, with or without TLS. It counts connections per address, lets the
longest idle one go when all places are taken, and ends heads that never come to an end. What comes
through is aiohttp's business; malformed HTTP is answered in our own shape (`malformed.py`).
"""

import asyncio
import errno
import logging
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, Self

from aiohttp import web

from appliance.config import Settings
from appliance.errors import ApplianceError, OverloadedError
from appliance.http.errors import Dialect, HeadTimeoutError, problem_of
from appliance.http.malformed import MAX_FIELDS, answer_malformed, note, raw_answer, too_large

log = logging.getLogger("hearth.door")

BACKLOG = 256  # connections that the kernel keeps for us while we are busy
MAX_HEAD_BYTES = 64 * 1024  # of a request's head that comes in pieces
HANDSHAKE_TIMEOUT_S = 10.0  # from the connection to the end of the TLS handshake
HERE_EXTRA = 32  # places that only this machine may take, so that its owner always gets in
SPARE_FILES = 256  # descriptors that are not connections: models, pulls, workers, the database
TLS_SHARE = 4  # one connection over TLS costs as much memory as several plain ones
LINGER_S = 2.0  # for the rest of a body whose request was refused, so that the answer is read
RETRY_AFTER_S = 5  # what a refused client is told
EXHAUSTED_PAUSE_S = 0.1
UNSENT_BYTES = 128 * 1024  # what the kernel holds of an answer beyond what is on its way
QUIET_S = 60.0  # between two log lines about the same trouble
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections at once, and for how long without a request. Seconds."""

    connections: int
    per_address: int  # not for this machine itself
    head_s: float  # from the first byte of a request, or the connection, to the end of its head
    idle_s: float  # between two requests
    unread_s: float  # how long a client may take nothing of what was written to it

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As the settings say, lowered to the files that this process may open."""
        wanted = settings.max_connections
        files = _raise_file_limit(wanted * 2 + HERE_EXTRA + SPARE_FILES)
        most = max(16, (files - HERE_EXTRA - SPARE_FILES) // 2)
        if most < wanted:
            log.warning(
                "only %d connections at once instead of max_connections=%d: this process may open"
                " %d files (LimitNOFILE in the unit, or ulimit -n)",
                *(most, wanted, files),
            )
        return cls(
            connections=min(wanted, most),
            per_address=settings.max_connections_per_address,
            head_s=settings.head_timeout_s,
            idle_s=settings.idle_timeout_s,
            unread_s=settings.write_timeout_s,
        )

    def for_tls(self) -> Self:
        """The same for connections over TLS, whose buffers take a quarter of a megabyte each."""
        return replace(
            self,
            connections=max(1, self.connections // TLS_SHARE),
            per_address=max(1, self.per_address // TLS_SHARE),
        )


class Door:
    """Listens on one address and lets visitors in, up to its limits."""

    def __init__(
        self, server: web.Server, limits: Limits, context: ssl.SSLContext | None = None
    ) -> None:
        """server  that of the application's runner; context  for TLS, may be reloaded any time"""
        self._server = server
        self._limits = limits
        self._context = context
        self._sockets: list[socket.socket] = []
        self._visitors: set[Visitor] = set()  # those whose handshake is done
        self._held: Counter[str] = Counter()  # connections by address, handshakes included
        self._quiet_until = 0.0

    async def listen(self, host: str, port: int) -> list[tuple[str, int]]:
        """Open the port on every address of `host`; what was bound. Raises OSError.

        Clients may connect from here on; they are served while `run_forever` runs.
        """
        loop = asyncio.get_running_loop()
        flags = socket.AI_PASSIVE
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
        for family, _, _, _, address in dict.fromkeys(found):
            self._sockets.append(_bound(family, address))
        return [bound.getsockname()[:2] for bound in self._sockets]

    def adopt(self, sockets: Sequence[socket.socket]) -> list[tuple[str, int]]:
        """Take sockets that listen already, as systemd passes them; what they are bound to."""
        self._sockets += sockets
        return [bound.getsockname()[:2] for bound in self._sockets]

    async def run_forever(self) -> None:
        """Let visitors in until cancelled."""
        async with asyncio.TaskGroup() as group:
            for listening in self._sockets:
                group.create_task(self._accept_forever(listening, group))

    def close(self) -> None:
        """Stop listening. Visitors inside are the runner's to send away."""
        for listening in self._sockets:
            listening.close()
        self._sockets.clear()

    def came(self, visitor: "Visitor") -> None:
        """A connection was made; over TLS, its handshake is done."""
        self._visitors.add(visitor)

    def left(self, visitor: "Visitor") -> None:
        """A visitor, or what would have become one, is gone."""
        self._visitors.discard(visitor)
        self._held[visitor.address] -= 1
        if self._held[visitor.address] <= 0:
            del self._held[visitor.address]

    async def _accept_forever(self, listening: socket.socket, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._complain("no further connection can be opened: %s", error.strerror)
                    await asyncio.sleep(EXHAUSTED_PAUSE_S)
                continue  # anything else concerns that one connection: its peer is gone again
            group.create_task(self._admit(connection, str(peer[0])))
            await asyncio.sleep(0)  # in a flood sock_accept never waits, and nobody else had a turn

    async def _admit(self, connection: socket.socket, address: str) -> None:
        """Make a visitor of an accepted connection, or send it away."""
        if not self._has_room(address):
            self._refuse(connection, address)
            return
        self._held[address] += 1
        visitor = Visitor(self, self._server, address, self._limits)
        # A stream's own limit comes first and tells why in the log; this is for what is left then.
        unread_ms = max(1, int(2 * self._limits.unread_s * 1000))
        timeout_s = None if self._context is None else HANDSHAKE_TIMEOUT_S
        try:
            # The kernel gives up on a peer that takes nothing, which close() alone waits for.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_ms)
            # What it does not take is to wait here, where a stream sees it, not in the kernel.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: visitor, connection, ssl=self._context, ssl_handshake_timeout=timeout_s
            )
        except OSError as error:  # no handshake, not in time, or the peer is gone
            log.debug("no connection from=%s: %s", address, error)
        finally:
            visitor.arrived_or_gone()

    def _has_room(self, address: str) -> bool:
        """Whether one more from `address` may come in; an idle one may have to go for it."""
        is_here = ip_address(address.partition("%")[0]).is_loopback
        if not is_here and self._held[address] >= self._limits.per_address:
            return False
        if self._held.total() < self._limits.connections + (HERE_EXTRA if is_here else 0):
            return True
        return self._let_one_go()

    def _let_one_go(self) -> bool:
        """Close the connection that has been without a whole request for longest, if any is."""
        waiting = [visitor for visitor in self._visitors if visitor.is_idle]
        waiting = waiting or [visitor for visitor in self._visitors if visitor.is_sending]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda visitor: visitor.heard_at)
        self._visitors.discard(oldest)
        oldest.drop()
        return True

    def _refuse(self, connection: socket.socket, address: str) -> None:
        """One sentence, where the protocol allows it without a handshake, and good-bye."""
        with connection:
            held = self._held[address]
            self._complain("connections are refused from=%s which has %d open", address, held)
            if self._context is None:
                error = OverloadedError(
                    f"too many connections are open ({held} from {address})",
                    retry_after_s=RETRY_AFTER_S,
                    hint="close idle ones, or raise max_connections",
                )
                try:
                    connection.send(raw_answer(problem_of(error, Dialect.OLLAMA)))
                except OSError:
                    return

    def _complain(self, text: str, *facts: object) -> None:
        """Warn, but not for each connection of a flood."""
        now = asyncio.get_running_loop().time()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_S
            log.warning(text, *facts)


class Visitor(web.RequestHandler):
    """One connection: aiohttp's protocol, with an end to heads that never end."""

    __slots__ = ("_door", "_head_bytes", "_head_s", "_head_timer", "_is_counted", "_is_made",
                 "address", "heard_at")  # fmt: skip

    def __init__(self, door: Door, server: web.Server, address: str, limits: Limits) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.idle_s,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to say "none"
            lingering_time=LINGER_S,
            max_headers=MAX_FIELDS,
            auto_decompress=False,  # body.py: compressed bodies are refused
        )
        self.address = address
        self.heard_at = loop.time()  # when the last request came, or the connection
        self._door = door
        self._head_s = limits.head_s
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_made = False
        self._is_counted = True

    @property
    def is_idle(self) -> bool:
        """Whether no whole request is here, so that nobody loses an answer by a close."""
        return self.transport is not None and self._waiter is not None and not self._waiter.done()

    @property
    def is_sending(self) -> bool:
        """Whether a request is being answered whose body has not come to its end."""
        request = self._current_request
        return request is not None and not request.content.is_eof()

    def arrived_or_gone(self) -> None:
        """The connection was made, or never will be."""
        if not self._is_made:
            self._leave()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._is_made = True
        super().connection_made(transport)
        self._door.came(self)
        self._start_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._end_head()
        self._leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        count = self._request_count
        super().data_received(data)
        if self._request_count != count:
            self.heard_at = self._loop.time()
            self._end_head()
            if self.is_sending:
                self._break_off_body()
        elif data and self.is_idle:
            if self._head_timer is None:
                self._start_head()
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse_head(too_large(f"{MAX_HEAD_BYTES} bytes"))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp asks this for the answer to what its parser could not read."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun, another cannot follow")
        return answer_malformed(exc, self.address)

    def drop(self) -> None:
        """Close at once, whatever is unsent."""
        if self.transport is not None:
            self.transport.abort()

    def _leave(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._door.left(self)

    def _start_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self._loop.call_later(self._head_s, self._head_is_late)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.is_idle:
            return  # it came after all, and is being answered
        if self._head_bytes:
            limit = f"{self._head_s:g} s"
            self._refuse_head(HeadTimeoutError(f"the request's head took longer than {limit}"))
        else:
            self.drop()  # not one byte: nobody waits for a word

    def _break_off_body(self) -> None:
        """Tell the handler that its body is malformed: something came before its end.

        aiohttp would leave it waiting, and answer the parser's error after it.
        """
        request = self._current_request
        if request is not None:
            self._messages.clear()
            request.content.set_exception(web.RequestPayloadError("malformed body"))
            request.content.feed_eof()
            self.close()

    def _refuse_head(self, error: ApplianceError) -> None:
        """Tell why, and close: where the next request would begin nobody knows."""
        self._end_head()
        if self.transport is not None:
            problem = problem_of(error, Dialect.OLLAMA)
            note(problem, self.address)
            self.transport.write(raw_answer(problem))
            self.force_close()


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    """A listening socket; [::] takes IPv4 too. Raises OSError."""
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            only_six = address[0] != "::"
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_six)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def _raise_file_limit(wanted: int) -> int:
    """Let this process open `wanted` files if it may; how many it may open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    target = wanted if hard == unlimited else min(wanted, hard)
    if soft != unlimited and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        soft = target
    return wanted if soft == unlimited else soft
