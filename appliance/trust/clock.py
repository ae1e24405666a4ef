"""What time it is, on boards that may not know: rules over a clock reading and a floor.

No time before the floor is believed: this software's release, or the newest moment that a verified
timestamp was issued at. Expiry is judged at `TrustedTime.now_s`, and never stops what is installed.
"""

import contextlib
import ctypes
import datetime
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

DAY_S = 86_400

# the clock of a board cannot be before the software that it runs; raised with each release
RELEASED_S = int(datetime.datetime(2026, 9, 1, tzinfo=datetime.UTC).timestamp())

# there since a time server answered in this boot (systemd-timesyncd.service(8))
TIMESYNCD_MARK = Path("/run/systemd/timesync/synchronized")

_SUSPECT_S = 5 * 365 * DAY_S
_SKEW_S = DAY_S
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 512  # more than struct timex on any architecture


class ClockState(StrEnum):
    SYNCED = "synced"  # the kernel says so, or a hardware clock set it
    PLAUSIBLE = "plausible"  # not before the floor, and nobody vouches for it
    BEHIND = "behind"  # before the floor: certainly wrong
    SUSPECT = "suspect"  # years after the floor, and nobody vouches for it


CLOCK_CURES: dict[ClockState, str] = {
    ClockState.SYNCED: "",
    ClockState.PLAUSIBLE: "",
    ClockState.BEHIND: "the clock is behind, so withheld updates are noticed late: reach a time "
    "server, replace the RTC battery, or take the time from an administrator's browser",
    ClockState.SUSPECT: "the clock is years ahead of everything this box has seen: set it, or "
    "signed metadata will look expired",
}


@dataclass(frozen=True, slots=True)
class ClockReading:
    """What the system clock shows, in seconds since 1970, and whether somebody vouches for it."""

    now_s: int
    is_synced: bool


@dataclass(frozen=True, slots=True)
class TrustedTime:
    """The time that rules may use, and how far to believe it."""

    now_s: int
    state: ClockState

    @property
    def cure(self) -> str:
        return CLOCK_CURES[self.state]


def judge_clock(reading: ClockReading, floor_s: int = RELEASED_S) -> TrustedTime:
    """max(clock, floor), and what to think of the clock."""
    if reading.now_s < floor_s:
        return TrustedTime(floor_s, ClockState.BEHIND)
    if reading.is_synced:
        return TrustedTime(reading.now_s, ClockState.SYNCED)
    is_suspect = reading.now_s > floor_s + _SUSPECT_S
    return TrustedTime(reading.now_s, ClockState.SUSPECT if is_suspect else ClockState.PLAUSIBLE)


def is_believable(issued_s: int, expires_s: int, reading: ClockReading) -> bool:
    """Whether a signed date of issue may raise the floor.

    A stolen online key could else push the floor years ahead and make everything look expired; it
    cannot go past its own expiry, nor past a clock that is known to be right.
    """
    if issued_s > expires_s:
        return False
    return not reading.is_synced or issued_s <= reading.now_s + _SKEW_S


def read_clock(
    rtc: Path = Path("/sys/class/rtc"), timesyncd: Path = TIMESYNCD_MARK
) -> ClockReading:
    """The system clock; vouched for by the kernel's NTP state, systemd's time client (which our
    unit's sandbox does not hide, as it does the former) or by a hardware clock."""
    is_synced = _is_kernel_synced() or timesyncd.exists() or _was_set_by_hardware(rtc)
    return ClockReading(int(time.time()), is_synced)


def _is_kernel_synced() -> bool:
    """adjtimex(2) with modes 0 only reads; a sandbox that forbids it counts as not synced."""
    try:
        state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (AttributeError, OSError):
        return False
    return 0 <= state < _TIME_ERROR


def _was_set_by_hardware(rtc: Path) -> bool:
    """Whether the kernel set the clock from an RTC at boot (sysfs-class-rtc, hctosys)."""
    for flag in rtc.glob("*/hctosys"):
        with contextlib.suppress(OSError):
            if flag.read_text().strip() == "1":
                return True
    return False
