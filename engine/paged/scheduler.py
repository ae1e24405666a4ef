"""Which request computes which tokens in the next step, and who gives way when memory is short.

Pure decisions on ints and lists: it never sees a tensor, a clock or a thread. A step is planned,
launched by the runner, and committed when its tokens are known. One step may be planned while the
one before it is still uncommitted (overlap), or none (synchronous); the code is the same.

Policy
- Every decoding sequence gets its token in every step; what is left of the budget goes to prefill,
  first of the running, then of the waiting, in order of priority and arrival.
- Admission takes the blocks of the whole prompt and leaves a watermark for the running to grow.
- A running request without a block for its next token takes those of the last one below it, which
  computes anew later. Nobody is preempted twice before gaining a token; with nobody below, it
  waits.
- A waiting request whose next block is being computed by another one waits for that block: n
  choices of one prompt, or a crowd with one system prompt, compute it once.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping
from operator import attrgetter

from engine.api import FinishReason
from engine.errors import EngineBusyError, EngineRequestError
from engine.paged.blocks import BlockPool
from engine.paged.limits import Limits
from engine.paged.plan import Cell, StepPlan
from engine.paged.prefix import PrefixIndex
from engine.paged.request import IntegrityError, Phase, Request

_WATERMARK_SHARE = 50  # one part in so many of the pool stays obtainable after an admission
_ORDER = attrgetter("order")


class Scheduler:
    """Add requests, then plan, launch and commit steps while `has_work`.

    Epochs number the steps from 1. An empty plan need not be launched, but must be committed.
    """

    def __init__(self, limits: Limits, index: PrefixIndex) -> None:
        """index: made for the same number and size of blocks."""
        self.limits = limits
        self.index = index
        self.pool = BlockPool(limits.num_blocks, self.index)
        self.num_preemptions = 0
        self._size = limits.block_size
        self._requests: dict[int, Request] = {}
        self._waiting: list[Request] = []  # sorted by order
        self._running: list[Request] = []  # sorted by order
        self._arrivals = 0
        self._rows = list(range(limits.max_running - 1, -1, -1))
        self._fenced_rows: deque[tuple[int, int]] = deque()  # (epoch, row)
        self._widths = [0] * limits.max_running  # non-zero cells of each row on the device
        self._planned = 0  # the newest epoch
        self._launched: deque[StepPlan] = deque()
        self._cells: list[Cell] = []
        self._roster: tuple[list[Request], tuple[int, ...], tuple[int, ...]] = ([], (), ())

    # -- requests ----------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Queue a new request.

        Raises ContextLengthError or EngineRequestError when it can never be served, EngineBusyError
        when there are too many to wait.
        """
        length, limits = request.prompt_length, self.limits
        limits.check_prompt(length)
        if request.id in self._requests:
            raise EngineRequestError(f"request id {request.id} is in use; choose another")
        if len(self._requests) >= limits.max_requests:
            raise EngineBusyError(
                f"{len(self._requests)} requests are in the engine, which is its limit;"
                " try again later"
            )
        room = limits.max_context - length + 1  # the last token of a full context needs no KV
        wanted = room if request.max_tokens < 0 else max(1, request.max_tokens)
        request.final_start = length + min(wanted, room) - 2
        self._arrivals += 1
        request.order = (-request.priority, self._arrivals)
        self._requests[request.id] = request
        insort(self._waiting, request, key=_ORDER)

    def abort(self, request_id: int) -> Request | None:
        """End a request with ABORT in whatever state it is; None if the id is not alive.

        The caller reports this end: `commit` never mentions the request again.
        """
        request = self._requests.get(request_id)
        if request is not None:
            self._end(request, FinishReason.ABORT)
        return request

    def has_work(self) -> bool:
        """Whether there is something to plan or to commit."""
        return bool(self._requests or self._launched)

    def stats(self) -> dict[str, int]:
        return {
            "running": len(self._running),
            "waiting": len(self._waiting),
            "blocks_total": self.limits.num_blocks - 1,
            "blocks_free": self.pool.free + self.pool.fenced,
            "blocks_cached": len(self.index),
            "preemptions": self.num_preemptions,
        }

    # -- a step ------------------------------------------------------------------------------------

    def plan(self, epoch: int) -> StepPlan:
        """What step `epoch` computes; at most one earlier step may be uncommitted.

        Requests in the plan count as computed to the end of their items from now on.
        """
        if epoch <= self._planned or len(self._launched) > 1:
            raise IntegrityError(
                f"step {epoch} is planned after step {self._planned}, when"
                f" {len(self._launched)} are uncommitted; one may be"
            )
        self._planned = epoch
        pausing = [r for r in self._running if r.computed >= r.coast_end]
        is_short = self._grow(pausing) if pausing else False

        decoding = [r for r in self._running if r.computed < r.coast_end]
        starts = [r.computed for r in decoding]
        for request in decoding:
            request.computed += 1
        chunks: list[tuple[Request, int]] = []  # (request, start)
        budget = self.limits.step_tokens - len(decoding)
        for request in pausing:
            if budget and request.phase is Phase.RUNNING and not request.coast_end:
                budget -= self._chunk(request, budget, chunks)
        if self._waiting and not is_short:
            self._admit(budget, chunks)
        return self._seal(decoding, starts, chunks)

    def _grow(self, pausing: list[Request]) -> bool:
        """Give each decoding row the block it needs; True if somebody went short of one."""
        is_short = False
        awaited = 0  # fenced blocks that earlier rows in this loop will get
        for request in pausing:
            is_waiting = not request.coast_end or request.computed > request.final_start
            if is_waiting or request.phase is not Phase.RUNNING:
                continue  # prefilling, its last token in flight, or preempted in this loop
            while not self.pool.free and self.pool.fenced <= awaited:
                victim = self._victim(request)
                if victim is None:
                    break
                self._preempt(victim)
                is_short = True
            if self.pool.free:
                self._extend(request, 1)
                self._coast(request)
            else:
                awaited += 1
                is_short = True
        return is_short

    def _victim(self, request: Request) -> Request | None:
        """The last row below `request` that has gained a token since it was preempted."""
        for other in reversed(self._running):
            if other is request:
                break
            if not other.is_spared:
                return other
        return None

    def _chunk(self, request: Request, budget: int, chunks: list[tuple[Request, int]]) -> int:
        """Plan as many known tokens of a prefilling row as the budget allows; how many."""
        start = request.computed
        count = min(len(request.tokens) - start, budget)
        request.computed = start + count
        if request.computed == len(request.tokens):
            self._coast(request)
        chunks.append((request, start))
        return count

    def _coast(self, request: Request) -> None:
        request.coast_end = min(len(request.blocks) * self._size, request.final_start + 1)

    def _seal(
        self, decoding: list[Request], starts: list[int], chunks: list[tuple[Request, int]]
    ) -> StepPlan:
        if decoding != self._roster[0]:  # most steps decode the same rows as the step before
            ids = tuple([r.id for r in decoding])
            self._roster = (decoding, ids, tuple([r.row for r in decoding]))
        requests, roster_ids, roster_rows = self._roster
        new = [request for request, _ in chunks]
        plan = StepPlan(
            epoch=self._planned,
            num_decodes=len(requests),
            requests=(*requests, *new),
            ids=(*roster_ids, *[r.id for r in new]),
            rows=(*roster_rows, *[r.row for r in new]),
            starts=(*starts, *[start for _, start in chunks]),
            counts=(1,) * len(requests) + tuple(r.computed - start for r, start in chunks),
            samples=(True,) * len(requests) + tuple(r.coast_end > 0 for r in new),
            cells=tuple(self._cells),
        )
        self._cells = []
        self._launched.append(plan)
        return plan

    # -- admission and preemption ------------------------------------------------------------------

    def _admit(self, budget: int, chunks: list[tuple[Request, int]]) -> None:
        """Give rows and blocks to the waiting, in order, while there is room for them."""
        place = 0  # how many were passed over; not all of a long queue is looked at in each step
        while budget and self._rows and place < min(len(self._waiting), self.limits.max_running):
            request = self._waiting[place]
            hits = self._hits(request)
            if hits is None:
                place += 1
                continue
            missing = -(-len(request.tokens) // self._size) - len(hits)
            if not self._has_room(missing + self.pool.unreferenced(hits)):
                break
            del self._waiting[place]
            self._start(request, hits, missing)
            budget -= self._chunk(request, budget, chunks)

    def _hits(self, request: Request) -> list[int] | None:
        """Cached blocks of all but the last token; None while another computes the next one."""
        if request.wanted_key and self.index.is_claimed(request.wanted_key):
            return None
        request.wanted_key = b""
        self.index.extend(request.keys, request.tokens, request.salt)
        usable = request.keys[: (len(request.tokens) - 1) // self._size]
        hits = self.index.match(usable)
        if len(hits) < len(usable) and self.index.is_claimed(usable[len(hits)]):
            request.wanted_key = usable[len(hits)]
            return None
        return hits

    def _has_room(self, taken: int) -> bool:
        """Whether so many blocks can be had now and leave the running their watermark."""
        left = self.pool.free + self.pool.fenced - taken
        watermark = max(self.limits.num_blocks // _WATERMARK_SHARE, len(self._running))
        return taken <= self.pool.free and (not self._running or left >= watermark)

    def _start(self, request: Request, hits: list[int], missing: int) -> None:
        self.pool.share(hits)
        request.move(Phase.RUNNING)
        request.row = row = self._rows.pop()
        request.blocks = hits
        request.published = len(hits)
        request.computed = len(hits) * self._size
        if not request.preemptions:
            request.cached_tokens = request.computed
        self._cells += [(row, column, block) for column, block in enumerate(hits)]
        self._extend(request, missing)
        stale = range(len(request.blocks), self._widths[row])
        self._cells += [(row, column, 0) for column in stale]
        self._widths[row] = len(request.blocks)
        self.index.claim(request.keys[request.published :], request.id)
        insort(self._running, request, key=_ORDER)

    def _extend(self, request: Request, count: int) -> None:
        blocks, row = request.blocks, request.row
        for block in self.pool.allocate(count):
            self._cells.append((row, len(blocks), block))
            blocks.append(block)
        self._widths[row] = max(self._widths[row], len(blocks))

    def _preempt(self, request: Request) -> None:
        # The token in flight, if there is one, comes from before: it does not count as a gain.
        request.preempted_length = max(len(request.tokens), request.computed + 1)
        request.preemptions += 1
        self.num_preemptions += 1
        self._take_back(request)
        request.move(Phase.PREEMPTED)
        insort(self._waiting, request, key=_ORDER)

    def _take_back(self, request: Request) -> None:
        """Release the row and blocks of a running request, behind the last launched step."""
        epoch = self._launched[-1].epoch if self._launched else 0
        self.pool.release(request.blocks, epoch)
        if epoch:
            self._fenced_rows.append((epoch, request.row))
        else:
            self._rows.append(request.row)
        self.index.unclaim(request.keys[request.published :], request.id)
        _remove(self._running, request)

    def _end(self, request: Request, reason: FinishReason) -> None:
        if request.phase is Phase.RUNNING:
            self._take_back(request)
        else:
            _remove(self._waiting, request)
        request.move(Phase.FINISHED)
        request.finish = reason
        request.final_start = -1
        del self._requests[request.id]

    # -- results -----------------------------------------------------------------------------------

    def commit(self, epoch: int, sampled: Mapping[int, int]) -> list[Request]:
        """Take in the tokens of the oldest launched step, by request id.

        Returns, in the plan's order, the requests that gained the token given for them or ended;
        `finish` tells which ended, and exactly once. Ghosts, which ended after the step was
        planned, are left out, and `sampled` may or may not name them. A request with max_tokens 0
        ends here without gaining its token.
        """
        if not self._launched or self._launched[0].epoch != epoch:
            raise IntegrityError(f"step {epoch} is not the oldest launched one")
        plan = self._launched.popleft()
        moved = self._commit_decodes(plan, sampled)
        for request, _, start, count, is_sampled in plan.chunks():
            self._publish(request, start + count)
            if is_sampled and self._gain(request, start + count - 1, sampled):
                moved.append(request)
        self.pool.settle(epoch)
        while self._fenced_rows and self._fenced_rows[0][0] <= epoch:
            self._rows.append(self._fenced_rows.popleft()[1])
        return moved

    def _commit_decodes(self, plan: StepPlan, sampled: Mapping[int, int]) -> list[Request]:
        """The fast path: a row that just goes on costs an append and four comparisons."""
        moved = list(plan.requests[: plan.num_decodes])
        ghosts = []
        last = self._size - 1
        tokens = map(sampled.get, plan.ids[: plan.num_decodes])
        for request, start, token in zip(moved, plan.starts, tokens, strict=False):
            if start % self._size == last:
                self._publish(request, start + 1)
            if start >= request.final_start or token is None or token in request.end_tokens:
                if not self._gain(request, start, sampled):
                    ghosts.append(request)
            else:
                request.tokens.append(token)
        return [r for r in moved if r not in ghosts] if ghosts else moved

    def _gain(self, request: Request, start: int, sampled: Mapping[int, int]) -> bool:
        """Append the token after position `start`, and end with it if due; False for a ghost."""
        if request.phase is Phase.FINISHED:
            return False
        if request.max_tokens == 0:
            self._end(request, FinishReason.LENGTH)
            return True
        token = sampled[request.id]
        request.tokens.append(token)
        if token in request.end_tokens:
            self._end(request, FinishReason.STOP)
        elif start >= request.final_start:
            self._end(request, FinishReason.LENGTH)
        return True

    def _publish(self, request: Request, written: int) -> None:
        """Offer the full blocks among the first `written` tokens, all of committed steps."""
        if request.phase is not Phase.RUNNING:
            return
        self.index.extend(request.keys, request.tokens, request.salt)
        full = min(written // self._size, len(request.keys))
        for place in range(request.published, full):
            self.index.publish(request.keys[place], request.blocks[place], request.id)
        request.published = max(request.published, full)

    # -- integrity ---------------------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Raise IntegrityError unless all books balance. Walks over the pool: run it when idle."""
        self.pool.check(request.blocks for request in self._requests.values())
        self.index.check()
        for queue in (self._waiting, self._running):
            if queue != sorted(queue, key=_ORDER):
                raise IntegrityError("a queue is out of order")
        rows = [r.row for r in self._running]
        rows += self._rows + [row for _, row in self._fenced_rows]
        if sorted(rows) != list(range(self.limits.max_running)):
            raise IntegrityError("a row is lost, or used twice")
        if {r.id for r in (*self._waiting, *self._running)} != self._requests.keys():
            raise IntegrityError("a request is in no queue, or in a queue after its end")
        if not self.index.claimants() <= {r.id for r in self._running}:
            raise IntegrityError("a prefix is claimed by a request that is not running")
        for request in self._waiting:
            if request.blocks or request.phase not in (Phase.WAITING, Phase.PREEMPTED):
                raise IntegrityError(f"{request} waits")
        for request in self._running:
            self._check_running(request)
        if not self.has_work() and (self.pool.fenced or self._fenced_rows):
            raise IntegrityError("something is still fenced although no step is under way")

    def _check_running(self, request: Request) -> None:
        covered = request.computed if request.coast_end else len(request.tokens)
        published = request.published * self._size
        is_ahead = covered > len(request.tokens) + 1 or published > request.computed
        if request.phase is not Phase.RUNNING or is_ahead:
            raise IntegrityError(f"{request} runs")
        if len(request.blocks) != -(-covered // self._size):
            raise IntegrityError(f"{request} holds too many or too few blocks")


def _remove(queue: list[Request], request: Request) -> None:
    place = bisect_left(queue, request.order, key=_ORDER)
    if place == len(queue) or queue[place] is not request:
        raise IntegrityError(f"{request} is not in its queue")
    del queue[place]
