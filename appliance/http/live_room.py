"""Keeps the state of the box fresh for those who listen, and tells them of changes.

What tells of its changes by itself (queues, loads, transfers) is looked at when it
does; everything else on a slow tick that runs only while somebody listens. A listener that reads
slowly misses steps, never the last state; one that stops reading is dropped.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from appliance.errors import ApplianceError, OverloadedError
from engine.errors import EngineError

log = logging.getLogger("hearth.live")

MAX_LISTENERS = 64
MAX_PER_ADDRESS = 16  # so that one guest cannot keep the owner's page out
HEARTBEAT_S = 15.0
GATHER_S = 0.15  # changes that come closer together travel together
RETRY_AFTER_S = 15

Read = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the state: how to read it, and how often where nothing tells of changes."""

    read: Read  # gives what msgspec can encode
    every_s: float  # at least 2


@dataclass(frozen=True, slots=True)
class Audience:
    """What of the state one caller gets."""

    own: Mapping[str, Read] = field(default_factory=dict)  # sections that are this caller's alone
    hidden: frozenset[str] = frozenset()
    view: Callable[[str, Any], Any] | None = None  # (section, value) -> what may be seen of it


@dataclass(eq=False, slots=True)
class Listener:
    """One connection: what it has been sent."""

    address: str
    news: asyncio.Event = field(default_factory=asyncio.Event)
    sent: dict[str, bytes] = field(default_factory=dict)  # JSON by section


class Live:
    """Keeps the sections fresh while somebody listens. Lives on the event loop."""

    def __init__(self, sections: Mapping[str, Section]) -> None:
        self._sections = sections
        self._listeners: set[Listener] = set()
        self._latest: dict[str, tuple[Any, bytes]] = {}  # value and JSON by section
        self._due_at = dict.fromkeys(sections, 0.0)  # time.monotonic()
        self._wake = asyncio.Event()
        self._is_closed = False

    def poke(self, *names: str) -> None:
        """These sections may have changed. Cheap, and nothing happens while nobody listens."""
        for name in names:
            self._due_at[name] = 0.0
        if self._listeners:
            self._wake.set()

    async def run_forever(self) -> None:
        """Read what is due and tell the listeners; sleeps for as long as there are none."""
        while True:
            self._wake.clear()
            if self._listeners:
                await self._refresh()
                await asyncio.sleep(GATHER_S)
            wait_s = None
            if self._listeners:
                wait_s = max(0.0, min(self._due_at.values()) - time.monotonic())
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def close(self) -> None:
        """End all streams with a word; nobody is let in any more."""
        self._is_closed = True
        for listener in self._listeners:
            listener.news.set()

    @contextmanager
    def listening(self, address: str) -> Iterator[Listener]:
        """A place among the listeners. Raises OverloadedError when there is none."""
        if self._is_closed:
            raise OverloadedError("the service is stopping, please try again")
        taken = Counter(each.address for each in self._listeners)[address]
        if len(self._listeners) >= MAX_LISTENERS or taken >= MAX_PER_ADDRESS:
            raise OverloadedError(
                f"{len(self._listeners)} pages watch this box, {taken} of them from here; at most"
                f" {MAX_LISTENERS} may, {MAX_PER_ADDRESS} from one address",
                hint="close a page that is not needed",
                retry_after_s=RETRY_AFTER_S,
            )
        listener = Listener(address)
        if not self._listeners:
            self._latest.clear()  # nobody kept it fresh
            self.poke(*self._sections)
        self._listeners.add(listener)
        self._wake.set()
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    async def events(self, listener: Listener, audience: Audience) -> AsyncGenerator[bytes, None]:
        """The frames of one connection. Raises what the audience's own sections raise."""
        kind = b"snapshot"
        while not self._is_closed:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await listener.news.wait()
            except TimeoutError:
                yield b": still here\n\n"
                continue
            listener.news.clear()
            if self._is_closed:
                break
            latest = self._seen_by(audience)
            for name, read in audience.own.items():
                latest[name] = msgspec.json.encode(await read())
            changed = {k: v for k, v in latest.items() if listener.sent.get(k) != v}
            listener.sent |= changed
            if changed:
                yield _frame(kind, changed)
                kind = b"change"
        yield b'event: end\ndata: {"reason":"stopping"}\n\n'

    def _seen_by(self, audience: Audience) -> dict[str, bytes]:
        view = audience.view
        return {
            name: data if view is None else msgspec.json.encode(view(name, value))
            for name, (value, data) in self._latest.items()
            if name not in audience.hidden
        }

    async def _refresh(self) -> None:
        """Read the sections that are due; listeners hear of it if anything changed."""
        now = time.monotonic()
        has_changed = False
        for name, section in self._sections.items():
            if self._due_at[name] > now:
                continue
            self._due_at[name] = now + section.every_s
            value = await _value(name, section.read)
            data = msgspec.json.encode(value)
            has_changed = has_changed or self._latest.get(name, (None, b""))[1] != data
            self._latest[name] = (value, data)
        for listener in self._listeners:
            if has_changed or not listener.sent:
                listener.news.set()


def _frame(kind: bytes, sections: Mapping[str, bytes]) -> bytes:
    inside = b",".join(b'"' + name.encode() + b'":' + data for name, data in sections.items())
    return b"event: " + kind + b"\ndata: {" + inside + b"}\n\n"


async def _value(name: str, read: Read) -> Any:
    """A section, or None when it cannot be read just now, so that the others still come."""
    try:
        return await read()
    except (ApplianceError, EngineError, OSError) as error:
        log.warning("section=%s cannot be read: %s", name, error)
        return None
