"""One model's place in memory: its queue, its worker, and when it may go.

A `Resident` lives from the first request for its name until the service stops; its worker comes and
goes. Requests that need a different `LoadSpec` wait until the worker is idle and have it reloaded.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from appliance.access.shares import Path
from appliance.library.names import ModelName
from appliance.library.stored import StoredModel
from appliance.models.planner import NOTHING
from appliance.models.queue import FairQueue
from engine.api import LoadSpec
from engine.errors import EngineError
from engine.process.client import EngineClient

Loader = Callable[[], Awaitable[EngineClient]]


@dataclass(frozen=True, slots=True)
class Lease:
    """A request's hold on a loaded model: one slot of its worker, until the context is left."""

    client: EngineClient
    queue_position: int
    queue_ns: int
    load_ns: int
    priority: int = 0  # in engines that run several at once: who runs little goes first


class Resident:
    """See the module's text. Not thread-safe: lives on the event loop."""

    def __init__(self, name: ModelName, max_waiting: int) -> None:
        self.name = name
        self.queue = FairQueue(max_waiting)
        self.stored: StoredModel | None = None
        self.spec: LoadSpec | None = None
        self.need = NOTHING
        self.expires_at = float("inf")  # time.monotonic(); inf: kept for ever
        self.keep_alive_s = float("inf")  # of the request that came last
        self.idle_since = 0.0
        self._client: EngineClient | None = None
        self._users = 0
        self._gate = asyncio.Lock()  # held while deciding to reload: new users wait, old ones end
        self._idle = asyncio.Event()
        self._idle.set()
        self._left = asyncio.Event()  # somebody stopped using the worker
        self._is_leaving = False
        self._max_slots: int | None = None

    @property
    def client(self) -> EngineClient | None:
        """The worker, if there is a living one."""
        return self._client if self._client is not None and self._client.is_alive else None

    def expires_in(self, now: float) -> float:
        """Seconds until the keep-alive has passed; in use: as if it were idle from now on."""
        if self._users or self._gate.locked():
            return self.keep_alive_s
        return max(0.0, self.expires_at - now)

    @property
    def is_evictable(self) -> bool:
        """Loaded, unused, and nobody is about to use or reload it."""
        return self._client is not None and self._users == 0 and not self._gate.locked()

    @asynccontextmanager
    async def lease(
        self, spec: LoadSpec, stored: StoredModel, share: Path, load: Loader
    ) -> AsyncGenerator[Lease, None]:
        """Wait for a slot, (re)load if the worker is not the one of `spec`, and hold the slot."""
        came = time.monotonic_ns()
        position = await self.queue.acquire(share)
        granted = time.monotonic_ns()
        priority = 1 - self.queue.running_of(share)
        try:
            async with self._gate:
                load_ns = await self._prepare(spec, stored, load)
                client = self._client
                assert client is not None
                while self._users >= client.info.slots:  # it has fewer than the one before had
                    self._left.clear()
                    await self._left.wait()
                self._users += 1
                self._idle.clear()
            try:
                yield Lease(client, position, granted - came, load_ns, priority)
            finally:
                self._users -= 1
                self._left.set()
                if self._users == 0:
                    self._idle.set()
                    self.idle_since = time.monotonic()
                    keep_s = 0.0 if self._is_leaving else self.keep_alive_s
                    self.expires_at = self.idle_since + keep_s
        finally:
            self.queue.release(share, (time.monotonic_ns() - granted) / 1e9)

    def detach(self) -> EngineClient | None:
        """Forget the worker and hand it to the caller, who closes it."""
        client, self._client = self._client, None
        self.spec = self.stored = None
        self.need = NOTHING
        self._is_leaving = False
        return client

    def limit_slots(self, most: int | None) -> None:
        """Serve at most so many requests at once from now on; None: as many as the engine can."""
        self._max_slots = most
        self._fit_queue()

    def _fit_queue(self) -> None:
        if self._client is not None:
            slots = self._client.info.slots
            self.queue.resize(min(slots, self._max_slots or slots))

    def leave_when_idle(self) -> None:
        """Let the worker go as soon as its running requests have ended."""
        self._is_leaving = True
        self.expires_at = time.monotonic()  # also if who is about to use it never does

    async def _answers(self) -> bool:
        """Whether the worker lives. An idle one is asked: its death may not have reached us yet."""
        if self.client is None:
            return False
        if self._users:
            return True
        try:
            await self.client.stats()
        except EngineError:
            return False
        return True

    async def _prepare(self, spec: LoadSpec, stored: StoredModel, load: Loader) -> int:
        """Have the right worker running; returns the nanoseconds that loading took."""
        if self.spec == spec and await self._answers():
            self.stored = stored
            return 0
        await self._idle.wait()
        started = time.monotonic_ns()
        if (old := self.detach()) is not None:
            await old.close()
        self._client = await load()
        self.spec, self.stored = spec, stored
        self._fit_queue()
        return time.monotonic_ns() - started
