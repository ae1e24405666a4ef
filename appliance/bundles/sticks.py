"""Takes folders that other processes hand over, and imports what is on them.

A stick is mounted for `hearth-import@.service` alone, where this service cannot see it. That unit
opens the stick's folder and sends the descriptor over a Unix socket (unix(7), SCM_RIGHTS); whoever
may write to the socket is the box's own administrator. It is told what happens, line by line, until
the socket is closed. One folder at a time; what became of the last one is kept for a while.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from appliance.bundles.importing import Importer
from appliance.bundles.medium import FOLDER
from appliance.conditions import Condition, Severity
from appliance.errors import ApplianceError, RegistryUnreachableError
from appliance.transfer.progress import Progress

log = logging.getLogger("hearth.bundles")

SOCKET = "import.sock"  # in the runtime folder
KEEP_S = 600.0  # how long the end of an import is told
SEND_LIMIT_S = 10.0  # for the other side to send, and to take a line
_AGAIN = "if it was pulled out too early, plug it in again; it goes on then"
_TITLES = {
    "importing": "A stick is being imported",
    "done": "A stick was imported",
    "failed": "A stick was not imported",
}


@dataclass(frozen=True, slots=True)
class Stick:
    """What happens, or happened last. `phase` is a word of `_TITLES`."""

    phase: str
    text: str
    cure: str = ""
    at: float = 0.0  # time.monotonic()


class Sticks:
    """Listens for sticks. Lives on the event loop."""

    def __init__(self, importer: Importer) -> None:
        self._importer = importer
        self._one = asyncio.Lock()
        self._last: Stick | None = None

    @property
    def last(self) -> Stick | None:
        """The stick that is in, or was lately."""
        last = self._last
        is_old = last and last.phase != "importing" and time.monotonic() - last.at > KEEP_S
        return None if is_old else last

    def conditions(self) -> list[Condition]:
        """The same for the page and `hearth status`."""
        last = self.last
        if last is None:
            return []
        severity = Severity.WARNING if last.phase == "failed" else Severity.NOTE
        title = _TITLES[last.phase]
        return [Condition(f"stick-{last.phase}", title, last.text, severity, last.cure)]

    async def run_forever(self, folder: Path) -> None:
        """Take who comes to the socket in `folder`, the runtime folder of the service."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as listening:
            await asyncio.to_thread(_listen, listening, folder / SOCKET)
            async with asyncio.TaskGroup() as visits:
                while True:
                    connection, _ = await loop.sock_accept(listening)
                    visits.create_task(self._visit(connection))

    async def _visit(self, connection: socket.socket) -> None:
        with connection:
            try:
                folder = await asyncio.to_thread(_receive, connection)
            except OSError as error:
                log.warning("a stick could not be taken: %s", error)
                return
            try:
                async with self._one:
                    await self._take(connection, folder)
            finally:
                os.close(folder)

    async def _take(self, connection: socket.socket, folder: int) -> None:
        """Import and tell; the end of the other side ends the import too."""
        root = Path(f"/proc/self/fd/{folder}") / FOLDER
        self._now("importing", "its models are being read; leave it in")
        try:
            async with aclosing(self._importer.bring_layout(root)) as lines:
                async for line in lines:
                    shown = replace(line, status=line.status.replace(str(root), "the stick"))
                    self._now("importing", f"{_words(shown)}; leave it in")
                    await _tell(connection, {"status": shown.status})
        except RegistryUnreachableError as error:
            text = str(error).replace(str(root), "the stick")
            self._now("failed", f"it could not be read to its end: {text}", _AGAIN)
        except ApplianceError as error:
            text = str(error).replace(str(root), "the stick")
            self._now("failed", f"{text}; you may pull it out", error.hint or "")
        except OSError:
            self._now("failed", "who handed it over is gone before its end", _AGAIN)
        else:
            self._now("done", "all for this box is here and checked; you may pull the stick out")
        assert self._last is not None  # just set
        log.info("stick %s: %s", self._last.phase, self._last.text)
        with contextlib.suppress(OSError):  # who handed it over may be gone
            last = self._last
            if last.phase == "failed":
                await _tell(connection, {"error": last.text, "hint": last.cure})
            else:
                await _tell(connection, {"status": last.text})

    def _now(self, phase: str, text: str, cure: str = "") -> None:
        self._last = Stick(phase, text, cure, time.monotonic())


def hand_over(folder: Path, address: Path) -> socket.socket:
    """Send `folder` to the service that listens at `address`; where it tells what happens."""
    there = socket.socket(socket.AF_UNIX)
    there.connect(str(address))
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        socket.send_fds(there, [b"!"], [descriptor])
    finally:
        os.close(descriptor)
    return there


def _listen(listening: socket.socket, path: Path) -> None:
    path.unlink(missing_ok=True)
    listening.bind(str(path))
    path.chmod(0o600)
    listening.listen(8)
    listening.setblocking(False)


def _receive(connection: socket.socket) -> int:
    """The descriptor of a folder; raises OSError. Leaves the connection non-blocking."""
    connection.settimeout(SEND_LIMIT_S)
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    connection.setblocking(False)
    if not descriptors:
        raise OSError("no folder was sent")
    return descriptors[0]


async def _tell(connection: socket.socket, document: dict[str, str]) -> None:
    data = msgspec.json.encode(document) + b"\n"
    async with asyncio.timeout(SEND_LIMIT_S):
        await asyncio.get_running_loop().sock_sendall(connection, data)


def _words(line: Progress) -> str:
    share = f" {100 * line.completed // line.total} %" if line.total else ""
    return line.status + share
