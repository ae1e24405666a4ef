"""What the box does by itself before something breaks: for memory, for heat, for the disk.

    memory  some tasks wait for it more than a fifth of the time → idle models are unloaded, before
            the kernel ends a process
    heat    the board slows down → each model serves fewer requests at once, so that those it takes
            stay quick; as many as before when it is cooler
    disk    less is free than must stay free → releases that nobody uses are given up

The kernel tells of memory (Documentation/accounting/psi.rst, triggers); where it does not, memory
is looked at while something generates, as heat is. While nothing happens nothing runs. Each action
is a line in the log, a count and an incident, which the checks show.
"""

import asyncio
import logging
import os
import select
from collections.abc import Callable
from pathlib import Path

from appliance.bundles.bundles import Bundles
from appliance.checks.device import MEMORY_STALL, is_hot
from appliance.device.device import Device
from appliance.device.load import oom_kills
from appliance.errors import ApplianceError
from appliance.incidents import Incidents, Kind
from appliance.library.names import ModelName
from appliance.library.space import Space
from appliance.metrics import Metrics
from appliance.models.manager import Models
from engine.errors import EngineCrashedError, EngineError

log = logging.getLogger("hearth.pressure")

LOOK_S = 5.0  # between two looks at the board while something generates
SETTLE_S = 30.0  # until a change of concurrency has told on the temperature
COOL_LOOKS = 3  # in a row, until more is taken again
# Two of ten seconds: what avg10 calls 20. Ten seconds are the longest window, and even seconds are
# what the kernel allows to who is not root (Linux 6.4).
TRIGGER = f"some {int(MEMORY_STALL * 100_000)} 10000000"


class Pressure:
    """Run `run_forever` as a task; give `note_worker_end` and `make_room` to who calls them."""

    def __init__(
        self,
        models: Models,
        bundles: Bundles,
        space: Space,
        device: Device,
        metrics: Metrics,
        incidents: Incidents,
        *,
        look_s: float = LOOK_S,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._models = models
        self._bundles = bundles
        self._space = space
        self._device = device
        self._metrics = metrics
        self._incidents = incidents
        self._look_s = look_s
        self._loop = asyncio.get_running_loop()
        self._short = asyncio.Event()  # of memory, as the kernel says
        self._heat = Heat(round(settle_s / look_s))
        self._oom_kills: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run_forever(self) -> None:
        trigger = await asyncio.to_thread(Trigger.open, self._device.root / "proc/pressure/memory")
        self._oom_kills = await asyncio.to_thread(oom_kills, self._device.root)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_reserve())
                group.create_task(self._watch_board(looks_at_memory=trigger is None))
                if trigger is not None:
                    trigger.watch(self._short.set)
                    group.create_task(self._watch_memory())
        finally:
            if trigger is not None:
                trigger.close()

    # -- memory -----------------------------------------------------------------------------

    async def _watch_memory(self) -> None:
        while True:
            await self._short.wait()
            self._short.clear()
            await self._relieve("the kernel reports pressure")

    async def _relieve(self, why: str) -> None:
        gone = await self._models.unload_idle("memory pressure")
        if gone:
            self._note(Kind.UNLOADED, f"{', '.join(gone)}: {why}", len(gone))

    def note_worker_end(self, name: ModelName, error: EngineError) -> None:
        """Count how a worker ended; on the event loop's thread."""
        if not isinstance(error, EngineCrashedError):
            self._metrics.worker_ends.add(1, "unloaded")
            return
        task = self._loop.create_task(self._note_crash(name, error))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _note_crash(self, name: ModelName, error: EngineCrashedError) -> None:
        """The kernel says nothing to us when it kills; its own count of kills does."""
        before = self._oom_kills
        now = self._oom_kills = await asyncio.to_thread(oom_kills, self._device.root)
        is_oom = error.is_killed and None not in (before, now) and now != before
        self._metrics.worker_ends.add(1, "oom" if is_oom else "crashed")
        kind = Kind.WORKER_OOM if is_oom else Kind.WORKER_CRASHED
        self._incidents.note(kind, f"{name.short}: {error}")

    # -- heat -------------------------------------------------------------------------------

    async def _watch_board(self, *, looks_at_memory: bool) -> None:
        while True:
            await self._models.wait_generating()
            try:
                reading = await asyncio.to_thread(self._device.read)
            except (OSError, ValueError) as error:  # the board is not what answers depend on
                log.warning("the board cannot be read: %s", error)
                await asyncio.sleep(SETTLE_S)
                continue
            if looks_at_memory:
                stall = reading.stalls.get("memory")
                if stall is not None and stall.some10 > MEMORY_STALL:
                    await self._relieve(f"tasks wait for memory {stall.some10:.0f} % of the time")
            slots = max((model.slots for model in self._models.loaded()), default=1)
            thermal = {"thermal", "soft_temp_limit"} & set(reading.throttling.now)
            before = self._heat.limit
            if self._heat.look(bool(thermal) or is_hot(reading), slots):
                self._adapt(before, self._heat.limit)
            await asyncio.sleep(self._look_s)

    def _adapt(self, before: int | None, limit: int | None) -> None:
        self._models.limit_slots(limit)
        self._incidents.lowered_slots = limit
        is_lower = limit is not None and (before is None or limit < before)
        kind = Kind.SLOWED if is_lower else Kind.RESTORED
        self._note(kind, "as many at once as before" if limit is None else f"{limit} at once")

    # -- disk -------------------------------------------------------------------------------

    async def _keep_reserve(self) -> None:
        """At the start; afterwards whoever wants to bring bytes asks."""
        try:
            missing = await asyncio.to_thread(self._space.missing)
            if missing > 0:
                await asyncio.to_thread(self.make_room, missing)
        except (OSError, ApplianceError) as error:  # the disk is in trouble: that is another check
            log.warning("the reserve of the disk cannot be kept: %s", error)

    def make_room(self, missing: int) -> None:
        """Give up releases for so many bytes; in any thread."""
        for told in self._bundles.make_room(missing):
            self._loop.call_soon_threadsafe(self._note, Kind.DROPPED, told)

    def _note(self, kind: Kind, told: str, count: int = 1) -> None:
        log.warning("acted action=%s %s", kind, told)
        self._metrics.actions.add(count, kind)
        self._incidents.note(kind, told)


class Heat:
    """How many requests at once a hot board may take: half as many at each step, and up again by
    doubling when it was cool for a while."""

    def __init__(self, settle_looks: int) -> None:
        """settle_looks  between two changes, until the last one has told"""
        self.limit: int | None = None
        self._settle_looks = settle_looks
        self._wait = 0
        self._cool = 0

    def look(self, hot: bool, slots: int) -> bool:
        """Take in one look; whether `limit` changed. One slot cannot be halved."""
        before = self.limit
        self._cool = 0 if hot else self._cool + 1
        if self._wait > 0:
            self._wait -= 1
        elif hot and (self.limit or slots) > 1:
            self.limit = (self.limit or slots) // 2
            self._wait = self._settle_looks
        elif self.limit is not None and self._cool >= COOL_LOOKS:
            doubled = self.limit * 2
            self.limit = doubled if doubled < slots else None
            self._wait = self._settle_looks
        return self.limit != before


class Trigger:
    """The kernel's word that memory is short, without anybody looking."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # asyncio waits for readable descriptors; a trigger gives urgent data, and an epoll of its
        # own is readable when it has some
        self._poll = select.epoll()
        self._poll.register(descriptor, select.EPOLLPRI)

    @classmethod
    def open(cls, path: Path) -> "Trigger | None":
        """Blocking. None where the kernel has no such file or does not let us set a trigger."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if os.fstat(descriptor).st_size:
                raise PermissionError("the file is not the kernel's")
            os.write(descriptor, TRIGGER.encode() + b"\0")
            return cls(descriptor)
        except OSError as error:
            log.info("memory is looked at while models generate: %s", error)
            os.close(descriptor)
            return None

    def watch(self, told: Callable[[], None]) -> None:
        """Call `told` on the event loop each time; at most once in a window."""

        def ready() -> None:
            self._poll.poll(0)  # asyncio's own look has taken the event: there is nothing in it
            told()

        asyncio.get_running_loop().add_reader(self._poll.fileno(), ready)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._poll.fileno())
        self._poll.close()
        os.close(self._descriptor)
