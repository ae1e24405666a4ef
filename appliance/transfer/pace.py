"""How fast transfers may go: rates in both directions, and a pause while a model generates.

One `Pace` is shared by all transfers of a service, so a limit is the box's, whatever runs at once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, Self

from appliance.config import Settings

PAUSE_S = 60.0  # the longest pause at a time
MOVE_S = 10.0  # for so long a transfer then moves before it pauses again
BURST_S = 0.25  # what may go at once after silence, in seconds of the rate
NAP_S = 1.0

Clock = Callable[[], float]  # seconds that only grow
Sleep = Callable[[float], Awaitable[None]]


class Activity(Protocol):
    """Who knows whether a model generates just now."""

    @property
    def is_generating(self) -> bool: ...

    async def wait_quiet(self) -> None:
        """Return as soon as none generates."""


class Bucket:
    """A token bucket: `take` waits until that many bytes may go. 0 bytes per second: no limit.

    What is taken may be more than the bucket holds; it is owed then, so pieces of any size come
    through at the right rate, in the order in which they asked.
    """

    def __init__(self, rate: float, clock: Clock, sleep: Sleep = asyncio.sleep) -> None:
        self._rate = rate  # bytes per second
        self._clock = clock
        self._sleep = sleep
        self._free_at = 0.0  # when all that was taken has gone

    async def take(self, count: int, alive: Callable[[], None] | None = None) -> float:
        """Returns the seconds waited. `alive` is called at least every second meanwhile."""
        if not self._rate:
            return 0.0
        began = self._clock()
        self._free_at = max(self._free_at, began - BURST_S) + count / self._rate
        mine = self._free_at
        while (left_s := mine - self._clock()) > 0:
            await self._sleep(min(left_s, NAP_S))
            if alive is not None:
                alive()
        return self._clock() - began


class Gate:
    """Holds transfers while a model generates, though never so that they starve.

    The rule: at most PAUSE_S at a time; then they move for MOVE_S, whatever generates.
    """

    def __init__(self, activity: Activity | None, clock: Clock) -> None:
        self._activity = activity
        self._clock = clock
        self._moves_until = 0.0

    async def wait(self) -> float:
        """Returns the seconds waited."""
        began = self._clock()
        if self._activity is None or not self._activity.is_generating or began < self._moves_until:
            return 0.0
        try:
            async with asyncio.timeout(PAUSE_S):
                await self._activity.wait_quiet()
        except TimeoutError:
            self._moves_until = self._clock() + MOVE_S
        return self._clock() - began


class Pace:
    """What every piece of a transfer passes."""

    def __init__(self, down: Bucket, up: Bucket, gate: Gate) -> None:
        self._down = down
        self._up = up
        self._gate = gate
        self.on_received: Callable[[int], None] = lambda _: None

    @classmethod
    def free(cls) -> Self:
        """No limits."""
        return cls(Bucket(0, _no_time), Bucket(0, _no_time), Gate(None, _no_time))

    @classmethod
    def of(cls, settings: Settings, activity: Activity | None, clock: Clock) -> Self:
        pausing = activity if settings.transfer_pause == "generating" else None
        return cls(
            Bucket(settings.transfer_down_kbps * 125, clock),
            Bucket(settings.transfer_up_kbps * 125, clock),
            Gate(pausing, clock),
        )

    async def received(self, count: int) -> float:
        """Bytes came: wait until more may come. Returns the seconds waited, for who times peers."""
        self.on_received(count)
        waited_s = await self._gate.wait() + await self._down.take(count)
        own = _OWN_LIMIT.get()
        return waited_s if own is None else waited_s + await own.take(count)

    async def sending(self, count: int, alive: Callable[[], None]) -> None:
        """Wait until those bytes may go; `alive` is called every second meanwhile."""
        await self._up.take(count, alive)


_OWN_LIMIT: ContextVar[Bucket | None] = ContextVar("own limit of a download", default=None)


@contextmanager
def limited(down_kbps: int, clock: Clock = time.monotonic) -> Iterator[None]:
    """Slow what this task downloads, and the tasks that it starts meanwhile, to so many kilobits
    per second together; 0: no limit of its own. Others go at the box's rate."""
    token = _OWN_LIMIT.set(Bucket(down_kbps * 125, clock) if down_kbps else None)
    try:
        yield
    finally:
        _OWN_LIMIT.reset(token)


def _no_time() -> float:
    return 0.0
