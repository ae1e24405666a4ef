"""Care for what is stored: every blob is read again in time, at once where there is a reason to.

When nothing generates, slowly, with the lowest priority for the disk; what has rotted is set aside,
repaired if anybody has good bytes, and said. At once: after a model could not be loaded because its
file is damaged, and what came in shortly before an unclean stop. Between two checks it sleeps.
"""

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from appliance.config import MIB, Settings
from appliance.errors import ApplianceError
from appliance.library.blobs import atomic_write
from appliance.library.library import Library, Needed
from appliance.library.manifest import Digest
from appliance.library.scrub import take_out, verify
from appliance.threads import yield_the_disk
from appliance.transfer.pace import Activity
from appliance.transfer.repair import Repairs

log = logging.getLogger("hearth.care")

DAY_S = 86_400.0
RETRY_S = DAY_S  # until a blob that could not be repaired is tried again
LOOK_S = DAY_S  # how long it sleeps at most: clocks jump, models come
YOUNG_S = 3600.0  # what came in so long before the last start is checked after an unclean stop
LATELY_S = 3600.0  # what was read so lately is not read at once again
LEDGER = "scrub.json"
MARK = "running"  # there while the service runs, so that a start sees how the last run ended


class Ledger:
    """When each blob was read last, in a small file that is written after each blob."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._checked: dict[str, float] = {}

    def load(self) -> None:
        """What an earlier run noted; nothing if that cannot be read."""
        try:
            self._checked = {h: float(s) for h, s in json.loads(self._path.read_bytes()).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            log.debug("no ledger of checks at %s", self._path)

    def checked_at(self, digest: Digest) -> float:
        """Seconds since 1970; 0 if it was never checked."""
        return self._checked.get(digest.hex, 0.0)

    def note(self, digest: Digest, at: float, kept: Iterable[Digest]) -> None:
        """The blob was read; those that are not kept any more are forgotten."""
        self._checked[digest.hex] = at
        known = {kept_one.hex for kept_one in kept}
        self._checked = {h: s for h, s in self._checked.items() if h in known}
        atomic_write(self._path, json.dumps(self._checked, indent=0, sort_keys=True).encode())


class Care:
    """The background check of one library. Run `run_forever` as a task."""

    def __init__(
        self,
        settings: Settings,
        library: Library,
        activity: Activity,
        repairs: Repairs,
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._period_s = settings.scrub_days * DAY_S
        self._rate = settings.scrub_mib_s * MIB  # bytes per second
        self._library = library
        self._activity = activity
        self._repairs = repairs
        self._now = now
        self._sleep = sleep
        self._ledger = Ledger(settings.state / LEDGER)
        self._urgent: dict[Digest, None] = {}
        self._wake = asyncio.Event()
        self._reader = ThreadPoolExecutor(1, "care", initializer=yield_the_disk)

    def check_now(self, digests: Iterable[Digest]) -> None:
        """Check these blobs at once and at full speed; on the event loop's thread."""
        self._urgent |= dict.fromkeys(digests)
        self._wake.set()

    async def run_forever(self) -> None:
        try:
            await asyncio.to_thread(self._ledger.load)
            while True:
                self._wake.clear()
                try:
                    wait_s = await self._turn()
                except (OSError, ApplianceError) as error:  # the disk is in trouble: let it be
                    log.warning("the check of stored models failed, trying later: %s", error)
                    wait_s = RETRY_S
                await self._rest(wait_s)
        finally:
            self._reader.shutdown(wait=False, cancel_futures=True)

    async def _turn(self) -> float | None:
        """Check what is due; how long to sleep then, None: until woken."""
        await self._check_urgent()
        needed = await asyncio.to_thread(self._library.needed)
        due = await asyncio.to_thread(self._next, needed)
        if due is None:
            return None
        if due[0] <= 0:
            await self._check(due[1], needed, is_urgent=False)
        return min(max(due[0], 0.0), LOOK_S)

    def _next(self, needed: dict[Digest, Needed]) -> tuple[float, Digest] | None:
        """The blob that is due first, and in how many seconds; None if none ever is."""
        if not self._period_s or not needed:
            return None
        now = self._now()
        waits = [(self._read_at(d, now) + self._period_s - now, d) for d in needed]
        return min(waits, key=lambda wait: wait[0])

    def _read_at(self, digest: Digest, now: float) -> float:
        """When the blob was read last; one that came in was read on its way. Never in the future,
        which a clock that was wrong may have noted."""
        at = self._ledger.checked_at(digest) or self._library.blobs.stored_at(digest)
        return min(at, now)

    async def _rest(self, wait_s: float | None) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _check_urgent(self) -> None:
        while self._urgent:
            digest = next(iter(self._urgent))
            del self._urgent[digest]
            needed = await asyncio.to_thread(self._library.needed)
            was_lately = 0 <= self._now() - self._ledger.checked_at(digest) < LATELY_S
            if digest in needed and not was_lately:  # a model of an unknown kind is no damage
                await self._check(digest, needed, is_urgent=True)

    async def _check(
        self, digest: Digest, needed: dict[Digest, Needed], *, is_urgent: bool
    ) -> None:
        """Read one blob, act on what is wrong with it, and note it."""
        reason = await self._read(digest, is_urgent=is_urgent)
        is_whole = not reason or await self._mend(digest, needed[digest], reason)
        at = self._now() - (0 if is_whole else self._period_s - RETRY_S)
        await asyncio.to_thread(self._ledger.note, digest, at, needed)

    async def _read(self, digest: Digest, *, is_urgent: bool) -> str:
        loop = asyncio.get_running_loop()
        pieces = verify(self._library, digest)
        while True:
            if not is_urgent:
                await self._check_urgent()
                await self._activity.wait_quiet()
            size, reason = await loop.run_in_executor(self._reader, _step, pieces)
            if size is None:
                return reason
            if not is_urgent:
                await self._sleep(size / self._rate)

    async def _mend(self, digest: Digest, need: Needed, reason: str) -> bool:
        """Whether the blob is whole again, or not needed any more."""
        damage = await asyncio.to_thread(take_out, self._library, digest, need, reason)
        if damage is None:
            return True
        models = ",".join(name.short for name in damage.models)
        log.warning("damaged blob=%s models=%s reason=%r", digest, models, reason)
        try:
            await self._repairs.repair(damage)
        except ApplianceError as error:
            log.warning("not repaired blob=%s: %s", digest, error)
            return False
        return True


def _step(pieces: Generator[int, None, str]) -> tuple[int | None, str]:
    """The size of the next piece, or None and what is wrong."""
    try:
        return next(pieces), ""
    except StopIteration as end:
        return None, end.value


# -- how the last run ended ------------------------------------------------------------------


def ended_badly(state: Path) -> bool:
    """Whether the run before this one did not stop as it should; ask before this one is marked."""
    return (state / MARK).exists()


def young_after_unclean_stop(state: Path, library: Library) -> set[Digest]:
    """Mark that the service runs; the blobs to check if its last run did not end well.

    When that was is not known, so these are all that came in since an hour before its start.
    """
    mark = state / MARK
    young: set[Digest] = set()
    try:
        if mark.exists():
            oldest = mark.stat().st_mtime - YOUNG_S
            young = {d for d in library.needed() if library.blobs.stored_at(d) >= oldest}
        atomic_write(mark, f"{os.getpid()}\n".encode())
    except (OSError, ApplianceError) as error:  # a full disk must not keep the service from serving
        log.warning("cannot note that the service runs: %s", error)
    return young


def end_well(state: Path) -> None:
    """The service stops as it should."""
    try:
        (state / MARK).unlink(missing_ok=True)
    except OSError as error:  # a read-only disk: the next start will check a little more
        log.warning("cannot note that the service stopped well: %s", error)
