"""A bounded, fair queue for the slots of one model.

Who waits has a path, like ("key:a1b2", "its user"): those who differ in the first part take turns,
among them those who differ in the second, and so on. So ten requests of one do not delay the single
one of another by more than one turn, and nobody gets more by saying to be many. Within one path the
order is first come, first served.
"""

import asyncio
import math
from collections import deque

from appliance.access.shares import BOX, Path
from appliance.errors import OverloadedError, RateLimitedError

MAX_RETRY_AFTER_S = 60
FIRST_GUESS_S = 5.0  # how long a request holds a slot, until some have been seen


class FairQueue:
    """`slots` requests hold the model at once, at most `max_waiting` wait.

    Of one first part of a path at most half of `max_waiting` wait, so that there is always room for
    another; all paths have the same length below an equal first part.
    """

    def __init__(self, max_waiting: int, slots: int = 1) -> None:
        self.slots = slots
        self._max_waiting = max_waiting
        self._max_of_one = math.ceil(max_waiting / 2)
        self._root = _Share()
        self._mean_hold_s = FIRST_GUESS_S

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return self._root.running

    @property
    def waiting(self) -> int:
        """Requests in the queue, those that hold a slot not counted."""
        return self._root.waiting

    def running_of(self, path: Path) -> int:
        """Requests that hold a slot and have the same first part."""
        share = self._root.children.get(path[0])
        return share.running if share is not None else 0

    async def acquire(self, path: Path) -> int:
        """Wait for a slot; returns the place in the queue, 0 if there was a free slot.

        The place is the turn that this request gets if nobody else comes: it may be before requests
        that came earlier.

        Raises at once OverloadedError when `max_waiting` already wait, and RateLimitedError when
        too many of them have the same first part.
        """
        if self.running < self.slots and not self.waiting:
            self._root.count(path, running=1)
            return 0
        self._refuse_when_full(path)
        place = self._root.ahead_of(path) + 1
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._root.enter(path, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(path)  # the slot was ours already: hand it on
            else:
                self._root.forget(path, turn)
            raise
        return place

    def release(self, path: Path, held_s: float | None = None) -> None:
        """Give a slot back; `held_s` teaches the guess for Retry-After."""
        self._root.count(path, running=-1)
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

    def _refuse_when_full(self, path: Path) -> None:
        if self.waiting >= self._max_waiting:
            raise OverloadedError(
                "server busy, please try again.  maximum pending requests exceeded",
                retry_after_s=self.retry_after_s(),
                hint=f"{self.waiting} requests already wait for this model (max_queue)",
            )
        share = self._root.children.get(path[0])
        if share is not None and share.waiting >= self._max_of_one and path[0] != BOX[0]:
            raise RateLimitedError(
                f"{share.waiting} requests of this client already wait for the model, which is"
                " half of the queue",
                retry_after_s=self.retry_after_s(),
                hint="send fewer at once, and the next when one has ended (max_queue)",
            )

    def _hand_out(self) -> None:
        while self.running < self.slots and self.waiting:
            path, turn = self._root.next()
            if not turn.done():
                self._root.count(path, running=1)
                turn.set_result(None)


class _Share:
    """The requests below one beginning of their paths."""

    __slots__ = ("children", "line", "rotation", "running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting = 0
        self.children: dict[str, _Share] = {}  # with requests that run or wait
        self.rotation: list[str] = []  # the children of whom some wait; the first is next
        self.line: deque[tuple[Path, asyncio.Future[None]]] = deque()  # where paths end

    def count(self, path: Path, *, running: int = 0, waiting: int = 0) -> None:
        """Add to the counts along the path; forgets who neither runs nor waits."""
        self.running += running
        self.waiting += waiting
        if path:
            child = self.children.setdefault(path[0], _Share())
            child.count(path[1:], running=running, waiting=waiting)
            if not child.running and not child.waiting:
                del self.children[path[0]]

    def enter(self, path: Path, turn: asyncio.Future[None]) -> None:
        """Put a request at the end of its line."""
        share = self
        share.waiting += 1
        for name in path:
            child = share.children.setdefault(name, _Share())
            if not child.waiting:
                share.rotation.insert(share._place_for(child), name)
            child.waiting += 1
            share = child
        share.line.append((path, turn))

    def next(self) -> tuple[Path, asyncio.Future[None]]:
        """Take out the request whose turn it is."""
        self.waiting -= 1
        if not self.rotation:
            return self.line.popleft()
        name = self.rotation.pop(0)
        child = self.children[name]
        found = child.next()
        if child.waiting:
            self.rotation.append(name)
        elif not child.running:
            del self.children[name]
        return found

    def forget(self, path: Path, turn: asyncio.Future[None]) -> None:
        """Take out a request that no longer wants its turn, if it still waits."""
        share, above = self, []
        for name in path:
            if name not in share.children:
                return
            above.append((share, name))
            share = share.children[name]
        if (path, turn) not in share.line:
            return
        share.line.remove((path, turn))
        self.count(path, waiting=-1)
        for parent, name in above:
            child = parent.children.get(name)
            if name in parent.rotation and (child is None or not child.waiting):
                parent.rotation.remove(name)

    def ahead_of(self, path: Path) -> int:
        """Waiting requests that get their turn before a new one with this path."""
        if not path:
            return len(self.line)
        child = self.children.get(path[0])
        if child is not None and child.waiting:
            own, place = child.ahead_of(path[1:]), self.rotation.index(path[0])
        else:
            own, place = 0, self._place_for(child)
        ahead = own
        for index, name in enumerate(self.rotation):
            if name != path[0]:
                turns = own + 1 if index < place else own  # that it gets before the new request
                ahead += min(self.children[name].waiting, turns)
        return ahead

    def _place_for(self, child: "_Share | None") -> int:
        """Where in the rotation one goes of whom nothing waited until now.

        At the end; but who holds no slot goes before those at the end who do, as they have had a
        turn already.
        """
        place = len(self.rotation)
        if child is None or not child.running:
            while place and self.children[self.rotation[place - 1]].running:
                place -= 1
        return place
