"""What happened on this box since the service started, newest last, so that it can be told later.

Kept in memory and bounded. Who notices something notes it here; the checks read it. Used on the
event loop's thread alone.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

MAX_INCIDENTS = 200


class Kind(StrEnum):
    WORKER_OOM = "worker_oom"  # the kernel took a model's worker, as memory was short
    WORKER_CRASHED = "worker_crashed"
    UNLOADED = "unloaded_for_memory"  # the box let go of an idle model before the kernel acts
    DROPPED = "release_dropped"  # a release that nobody uses made room on the disk
    SLOWED = "concurrency_lowered"  # fewer requests at once, as the board is too hot
    RESTORED = "concurrency_restored"


@dataclass(frozen=True, slots=True)
class Incident:
    at_s: float  # seconds since 1970
    kind: Kind
    text: str


class Incidents:
    """The latest of them."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._all: deque[Incident] = deque(maxlen=MAX_INCIDENTS)
        self.ended_badly = False  # the run before this one
        self.safe_mode = ""  # why no model is loaded; empty: they are
        self.lowered_slots: int | None = None  # requests at once that a hot board still takes

    def note(self, kind: Kind, text: str) -> None:
        self._all.append(Incident(self._now(), kind, text))

    def latest(self, within_s: float = float("inf")) -> Sequence[Incident]:
        """Those of so many seconds past, oldest first."""
        oldest = self._now() - within_s
        return tuple(each for each in self._all if each.at_s >= oldest)
