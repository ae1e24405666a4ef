"""A bounded, fair queue for the slots of one model.

Callers take turns: who has ten requests waiting does not delay one who has a single one by more
than one turn. Within a caller the order is first come, first served.
"""

import asyncio
import math
from collections import OrderedDict, deque

from appliance.errors import OverloadedError

MAX_RETRY_AFTER_S = 60
FIRST_GUESS_S = 5.0  # how long a request holds a slot, until some have been seen


class FairQueue:
    """`slots` requests hold the model at once, at most `max_waiting` wait."""

    def __init__(self, max_waiting: int, slots: int = 1) -> None:
        self.slots = slots
        self.running = 0
        self._max_waiting = max_waiting
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._mean_hold_s = FIRST_GUESS_S

    @property
    def waiting(self) -> int:
        """Requests in the queue, those that hold a slot not counted."""
        return sum(len(line) for line in self._waiting.values())

    async def acquire(self, caller: str) -> int:
        """Wait for a slot; returns the place in the queue, 0 if there was a free slot.

        The place is the turn that this request gets if nobody else comes: callers take turns, so
        it may be before requests that came earlier.

        Raises OverloadedError at once when `max_waiting` already wait.
        """
        if self.running < self.slots and not self._waiting:
            self.running += 1
            return 0
        if self.waiting >= self._max_waiting:
            raise OverloadedError(
                "server busy, please try again.  maximum pending requests exceeded",
                retry_after_s=self.retry_after_s(),
                hint=f"{self.waiting} requests already wait for this model (max_queue)",
            )
        place = self._ahead_of(caller) + 1
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # the slot was ours already: hand it on
            else:
                self._forget(caller, turn)
            raise
        return place

    def release(self, held_s: float | None = None) -> None:
        """Give a slot back; `held_s` teaches the guess for Retry-After."""
        self.running -= 1
        if held_s is not None:
            self._mean_hold_s += 0.2 * (held_s - self._mean_hold_s)
        self._hand_out()

    def resize(self, slots: int) -> None:
        """Set the number of slots, as the loaded engine tells it."""
        self.slots = slots
        self._hand_out()

    def retry_after_s(self) -> int:
        """Seconds until a slot is likely free for a new request."""
        guess = self._mean_hold_s * (self.waiting + 1) / self.slots
        return max(1, min(MAX_RETRY_AFTER_S, math.ceil(guess)))

    def _ahead_of(self, caller: str) -> int:
        """Waiting requests that get their turn before a new one of `caller`."""
        own = ahead = len(self._waiting.get(caller, ()))
        turns = own + 1  # of a caller in front of this one, before the new request's
        for other, line in self._waiting.items():
            if other == caller:
                turns = own
            else:
                ahead += min(len(line), turns)
        return ahead

    def _hand_out(self) -> None:
        while self.running < self.slots and self._waiting:
            caller, line = next(iter(self._waiting.items()))
            turn = line.popleft()
            if line:
                self._waiting.move_to_end(caller)
            else:
                del self._waiting[caller]
            if not turn.done():
                self.running += 1
                turn.set_result(None)

    def _forget(self, caller: str, turn: asyncio.Future[None]) -> None:
        line = self._waiting.get(caller)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._waiting[caller]
