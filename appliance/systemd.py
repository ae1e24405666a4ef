"""What a service and systemd tell each other, by plain datagrams and inherited descriptors.

sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3), systemd.exec(5) for credentials. Without
systemd every call does nothing.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Self

log = logging.getLogger("hearth.systemd")

FIRST_FD = 3  # SD_LISTEN_FDS_START
FEEDS = 3  # per interval of the watchdog
LOOK_S = 10.0  # between two looks at the status line where nothing watches us
ADMIN_KEY = "admin-key"  # the credential's name in hearth.service
NO_KEY = "none"  # what the unit says where there is no such file


class Systemd:
    """The way to the service manager of this process."""

    def __init__(
        self,
        address: str = "",
        sockets: tuple[socket.socket, ...] = (),
        watchdog_s: float = 0.0,
        credentials: Path | None = None,
    ) -> None:
        """watchdog_s  the longest silence that it bears; 0: it does not watch"""
        self.sockets = sockets
        self.watchdog_s = watchdog_s
        self._credentials = credentials
        self._status = ""
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Self:
        """As the variables say that systemd set. Those that mean this process alone are taken out,
        so that no child thinks that it is meant."""
        pid = str(os.getpid())
        listening: list[socket.socket] = []
        if environ.pop("LISTEN_PID", "") == pid:
            for number in range(_number(environ.get("LISTEN_FDS", ""))):
                os.set_inheritable(FIRST_FD + number, False)
                listening.append(socket.socket(fileno=FIRST_FD + number))
                listening[-1].setblocking(False)
        for name in ("LISTEN_FDS", "LISTEN_FDNAMES"):
            environ.pop(name, None)
        is_watched = environ.get("WATCHDOG_PID", pid) == pid
        folder = environ.get("CREDENTIALS_DIRECTORY")
        return cls(
            environ.pop("NOTIFY_SOCKET", ""),
            tuple(listening),
            _number(environ.get("WATCHDOG_USEC", "")) / 1e6 if is_watched else 0.0,
            Path(folder) if folder else None,
        )

    @property
    def is_there(self) -> bool:
        """A service manager started this process, and starts it anew when it dies."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """The port answers and the store is open."""
        self._status = status
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """One line for people, sent when it is another one."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def extend_start(self, seconds: float, status: str) -> None:
        """Starting takes longer, for a reason: let it have `seconds` from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}\nSTATUS={status}")

    def stopping(self, status: str) -> None:
        self._send(f"STOPPING=1\nSTATUS={status}")

    async def feed_forever(
        self, describe: Callable[[], str], makes_progress: Callable[[], bool]
    ) -> None:
        """Feed the watchdog from the event loop, which must turn for it, as long as
        `makes_progress`; keep the status line true."""
        if self._socket is None:
            return
        was_well = True
        while True:
            await asyncio.sleep(self.watchdog_s / FEEDS if self.watchdog_s else LOOK_S)
            self.status(describe())
            is_well = makes_progress()
            if is_well:
                self._send("WATCHDOG=1")
            elif was_well:
                log.error("loading a model is stuck; the watchdog is not fed any more")
            was_well = is_well

    def admin_key(self) -> str:
        """The administrator's key that was handed to this service; empty without. Blocking."""
        if self._credentials is None:
            return ""
        try:
            text = (self._credentials / ADMIN_KEY).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            log.warning("the credential %s cannot be read: %s", ADMIN_KEY, error)
            return ""
        return "" if text == NO_KEY else text

    def close(self) -> None:
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(text.encode(), self._address)
        except OSError as error:
            log.warning("systemd cannot be told %r: %s", text.partition("\n")[0], error)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
