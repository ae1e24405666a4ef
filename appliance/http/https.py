"""HTTPS beside HTTP: the listener, and a certificate that is kept fresh.

The same application and the same rules as on plain HTTP. The certificate is looked at once a
minute, as addresses and the clock change; a new one counts for the next connection.
Damaged files close HTTPS alone, with a condition that says what to do.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web

from appliance.access.authority import Authority, Clock, Leaf, Wanted, signable
from appliance.box import Box
from appliance.conditions import Condition, Severity
from appliance.config import Settings
from appliance.errors import ApplianceError, ConfigError
from appliance.http.door import Door, Limits
from appliance.network import Network
from appliance.threads import to_end
from appliance.trust.clock import RELEASED_S, ClockState, judge_clock, read_clock

log = logging.getLogger("hearth.tls")

LOOK_S = 60.0  # between two looks at addresses, clock and the certificate's end
_CLOCKS = {
    ClockState.SYNCED: Clock.RIGHT,
    ClockState.PLAUSIBLE: Clock.LIKELY,
    ClockState.BEHIND: Clock.WRONG,
    ClockState.SUSPECT: Clock.WRONG,
}


class Tls:
    """HTTPS of one service. With `tls` off it does nothing and holds nothing."""

    def __init__(self, settings: Settings, box: Box, look: Callable[[], Wanted]) -> None:
        """look  what the certificate should say now; blocking"""
        names = signable(f"hearth-{box.id[-6:]}", socket.gethostname())
        self.is_on = settings.tls == "on"
        self.port: int | None = None  # when it is open
        self.problem: ApplianceError | None = None
        self.leaf: Leaf | None = None
        self._settings = settings
        self._look = look
        self._wake = asyncio.Event()
        self._authority = Authority(settings.state / "tls", f"Hearth {box.id[-6:]}", names)
        self._context: ssl.SSLContext | None = None
        self._door: Door | None = None

    async def open(self, server: web.Server, limits: Limits) -> None:
        """Listen, with a certificate if there can be one. Raises ConfigError for a taken port."""
        if not self.is_on:
            return
        self._context = _context()
        self._door = Door(server, limits.for_tls(), self._context)
        host, port = self._settings.address[0], self._settings.tls_port
        try:
            self.port = (await self._door.listen(host, port))[0][1]
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise ConfigError(
                f"cannot listen on port {port} for HTTPS: {error.strerror}",
                hint="another program has this port; choose another with tls_port, or set tls = off"
                if taken
                else "see the settings host and tls_port",
            ) from error
        await self.refresh()
        log.info("https port=%d", self.port)

    async def run_forever(self) -> None:
        """Serve, and keep the certificate fresh."""
        if self._door is None:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._door.run_forever())
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._wake.wait()
                self._wake.clear()
                await self.refresh()

    def look_now(self) -> None:
        """The addresses or the name of this machine may be others now."""
        self._wake.set()

    def close(self) -> None:
        """Stop listening."""
        if self._door is not None:
            self._door.close()

    async def refresh(self, *, anew: bool = False, authority: bool = False) -> None:
        """Look whether the certificate still serves. `problem` says what keeps it from doing so.

        anew  make another in any case; authority  under a new authority
        """
        try:
            leaf = await to_end(self._renew, anew, authority)
        except ApplianceError as error:
            if self.problem is None or str(self.problem) != str(error):
                log.warning("no https: %s (%s)", error, error.hint)
            self.problem = error
            return
        if leaf != self.leaf:
            log.info("certificate names=%s until=%d", ",".join(leaf.names), leaf.not_after)
        self.leaf, self.problem = leaf, None

    def certificate(self) -> bytes:
        """The authority's certificate, PEM. Blocking. Raises AuthorityError."""
        return self._authority.certificate()

    def fingerprint(self) -> str:
        """SHA-256 of the certificate's public key in base64url, or empty: for the TXT record."""
        return self.leaf.key_sha256 if self.leaf else ""

    def conditions(self) -> list[Condition]:
        """What is wrong with HTTPS."""
        if self.problem is None:
            return []
        text, cure = str(self.problem), self.problem.hint
        return [Condition("tls_unusable", "HTTPS does not work", text, Severity.ERROR, cure)]

    def _renew(self, anew: bool, authority: bool) -> Leaf:
        """In a thread: the files as they should be, loaded for the next handshake."""
        wanted = self._look()
        if authority:
            leaf = self._authority.replace(wanted)
        else:
            leaf = self._authority.ensure(wanted, anew=anew)
        if self._context is not None and leaf != self.leaf:
            try:
                self._context.load_cert_chain(self._authority.server_pem)
            except (OSError, ssl.SSLError) as error:
                raise ApplianceError(
                    f"the certificate cannot be loaded: {error}", hint="run `hearth tls renew`"
                ) from error
        return leaf


def here(network: Network, host_name: Callable[[], str]) -> Callable[[], Wanted]:
    """Tells what a certificate of this machine should say: its names, addresses and clock."""
    label = socket.gethostname().lower().partition(".")[0]

    def look() -> Wanted:
        time = judge_clock(read_clock())
        found = sorted(str(own.ip) for own in network.own_addresses())
        return Wanted(
            names=(host_name(), "localhost", f"{label}.local", label),
            addresses=("127.0.0.1", "::1", *found),
            now_s=RELEASED_S if time.state is ClockState.SUSPECT else time.now_s,
            clock=_CLOCKS[time.state],
        )

    return look


def _context() -> ssl.SSLContext:
    """TLS 1.2 and newer, as Python's defaults for servers are. Has no certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
