"""The time as this box knows it: the system's, or what an administrator said where that is wrong.

Boards without a hardware clock begin in 1970 at each start, and some sites have no time server. The
browser of an administrator tells the time then; it counts as a floor of what rules may use, goes on
with the machine's own seconds, and is kept for the next start. The system's clock is never set, and
where somebody vouches for it nothing else counts.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from appliance.errors import BadRequestError
from appliance.library.blobs import atomic_write
from appliance.trust.clock import DAY_S, RELEASED_S, ClockReading, read_clock

FILE = "known-time.json"
LATEST_S = RELEASED_S + 20 * 365 * DAY_S  # nobody means a later time


class KnownTime:
    """`load` first. Reading takes no disk; safe for threads."""

    def __init__(
        self,
        state: Path,
        read: Callable[[], ClockReading] = read_clock,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._file = state / FILE
        self._read = read
        self._monotonic = monotonic
        self._wall = wall
        self._told: tuple[float, float] | None = None  # the time, and when we were told it

    def load(self) -> None:
        """What was told before this start; nothing where that cannot be read. Blocking."""
        try:
            told_s = float(json.loads(self._file.read_bytes())["now_s"])
        except (OSError, ValueError, TypeError, KeyError):
            return
        if RELEASED_S <= told_s <= LATEST_S:
            self._told = (told_s, self._monotonic())

    def tell(self, now_s: float) -> bool:
        """Take the word of an administrator, who may also correct an earlier one. Blocking.

        False: the system's clock is right, nothing is kept. Raises BadRequestError for a time that
        cannot be, and LibraryError; then it counts until the next start.
        """
        if not RELEASED_S <= now_s <= LATEST_S:
            raise BadRequestError(
                f"now_s is {now_s:.0f}, it must be a time from {RELEASED_S} (this release) to"
                f" {LATEST_S}, in seconds since 1970",
                hint="set the clock of the device that you look with",
            )
        if self._read().is_synced:
            return False
        self._told = (now_s, self._monotonic())
        atomic_write(self._file, json.dumps({"now_s": now_s}).encode())
        return True

    def read(self) -> ClockReading:
        """The system's clock, or the time that we were told where that is later."""
        reading = self._read()
        if reading.is_synced or self._told is None:
            return reading
        told_s = int(self._told[0] + self._monotonic() - self._told[1])
        return ClockReading(max(reading.now_s, told_s), is_synced=False)

    def stamp(self) -> float:
        """Seconds since 1970 for what is noted. Free of disk: a clock that is certainly wrong
        counts from this release, or from what we were told."""
        now_s = self._wall()
        if now_s >= RELEASED_S:
            return now_s
        told_s, at = self._told or (float(RELEASED_S), 0.0)
        return told_s + self._monotonic() - at
