"""A device without a model for the paged scheduler, and the judge of everything it does.

The KV of a position is a hash of its token, its position and all KV before it *as read through the
block table*; the next token is made of the last KV. So any aliasing, stale read, wrong slot or
block read before it is written changes the output, which must be that of a plain list. Launched
steps run as late as they can, and their items in reverse order; what is free is poisoned.
"""

from collections import deque
from dataclasses import dataclass
from hashlib import sha256
from itertools import count

from engine.api import FinishReason
from engine.paged.limits import Limits
from engine.paged.prefix import PrefixIndex
from engine.paged.request import Phase, Request
from engine.paged.scheduler import Scheduler

VOCABULARY = 16
END = frozenset({3})


def limits(**changes):
    sizes = {
        "num_blocks": 13,
        "block_size": 4,
        "context_length": 40,
        "max_running": 4,
        "max_waiting": 100,
        "step_tokens": 16,
    }
    return Limits(**(sizes | changes))


def kv_of(token, before):
    return hash((token, len(before), tuple(before)))


def next_token(kv):
    return kv % VOCABULARY


def expected(request, max_context):
    """What a sequence alone, without blocks, generates: (tokens, reason)."""
    tokens = request.tokens[: request.prompt_length]
    values = []
    for token in tokens:
        values.append(kv_of(token, values))
    if request.max_tokens == 0:
        return tokens, FinishReason.LENGTH
    while True:
        token = next_token(values[-1])
        tokens.append(token)
        if token in request.end_tokens:
            return tokens, FinishReason.STOP
        if len(tokens) - request.prompt_length == request.max_tokens or len(values) == max_context:
            return tokens, FinishReason.LENGTH
        values.append(kv_of(token, values))


@dataclass
class Launched:
    """What a runner would have copied to the device when it launched the plan."""

    plan: object
    items: list  # (item, known tokens or None for the row's own, table)
    touched: set


class World:
    """A scheduler with its fake device; `launch` and `commit` are the two halves of a step."""

    def __init__(self, sizes=None, *, prefix_cache=True):
        self.limits = sizes or limits()
        self.root = bytes(32)
        self.index = PrefixIndex(
            self.limits.num_blocks, self.limits.block_size, root=self.root, enabled=prefix_cache
        )
        self.scheduler = Scheduler(self.limits, self.index)
        self.kv = [None] * (self.limits.num_blocks * self.limits.block_size)
        self.tables = [[0] * self.limits.max_blocks for _ in range(self.limits.max_running)]
        self.last_token = [None] * self.limits.max_running
        self.launched = deque()
        self.live = {}
        self.ended = {}  # id -> Request
        self.epochs = count(1)
        self.ids = count(1)
        self.poison = count(-1, -1)
        self.written = {}  # id -> tokens whose KV is committed, in this residence
        self.preempted = {}  # id -> (how often, tokens then, those in flight included)
        self.steps_without_gain = 0

    # -- what a client does ------------------------------------------------------------------------

    def add(self, prompt, max_tokens=8, *, end_tokens=END, priority=0, salt=b""):
        request = Request(
            next(self.ids), list(prompt), max_tokens=max_tokens, end_tokens=end_tokens,
            priority=priority, salt=salt,
        )  # fmt: skip
        self.scheduler.add(request)
        self.live[request.id] = request
        return request

    def abort(self, request):
        assert self.scheduler.abort(request.id) is request
        self._end(request, FinishReason.ABORT)
        self.steps_without_gain = 0
        whole, _ = expected(request, self.limits.max_context)
        assert request.tokens == whole[: len(request.tokens)]

    # -- what the engine does ----------------------------------------------------------------------

    def step(self, depth=0):
        """One turn of the engine's loop; depth 1: plan a step before the last one is committed."""
        self.settle(depth)
        plan = self.launch()
        self.settle(depth)
        return plan

    def settle(self, depth=0):
        while len(self.launched) > depth:
            self.commit()

    def drain(self, depth=0):
        while self.scheduler.has_work():
            if self.live:
                self.step(depth)
            else:
                self.settle()
        assert not self.live
        self.check_idle()

    def launch(self):
        published, preemptions = len(self.index), self.scheduler.num_preemptions
        waiting = {r.id for r in self.live.values() if r.phase is not Phase.RUNNING}
        plan = self.scheduler.plan(next(self.epochs))
        if self.scheduler.num_preemptions > preemptions:
            assert not waiting & set(plan.ids), "admitted while another was preempted"
        assert len(self.index) <= published, "published before its step was committed"
        self._judge_preemptions()
        in_flight = set().union(*(launched.touched for launched in self.launched))
        for row, column, block in plan.cells:
            assert block == 0 or self.index.has(block) or block not in in_flight, "reused too early"
            self.tables[row][column] = block
        assert sum(plan.counts) <= self.limits.step_tokens
        assert len(set(plan.rows)) == len(plan.rows)
        items, touched = [], set()
        for place, item in enumerate(plan.items()):
            request, row, start, num_tokens, is_sampled = item
            end = start + num_tokens
            is_decode = place < plan.num_decodes
            tokens = None if is_decode else request.tokens[start:end]
            assert num_tokens == 1 if is_decode else len(tokens) == num_tokens
            assert is_sampled == (is_decode or end == len(request.tokens))
            padding = [0] * (self.limits.max_blocks - len(request.blocks))
            assert self.tables[row] == request.blocks + padding
            self.written.setdefault(request.id, start)
            items.append((item, tokens, list(request.blocks)))
            touched.update(request.blocks)
        self.launched.append(Launched(plan, items, touched))
        self.check()
        return plan

    def commit(self):
        launched = self.launched.popleft()
        sampled = {}
        for item, tokens, table in reversed(launched.items):
            token = self._run(item, tokens, table)
            if item.is_sampled:
                sampled[item.request.id] = token
        for item, _, _ in launched.items:
            if item.request.row == item.row:
                self.written[item.request.id] = item.start + item.num_tokens
        moved = self.scheduler.commit(launched.plan.epoch, sampled)
        self.steps_without_gain = 0 if moved or not self.live else self.steps_without_gain + 1
        for request in moved:
            assert request.id in self.live
            if request.max_tokens:
                assert request.tokens[-1] == sampled[request.id]
            if request.finish:
                self._end(request, request.finish)
                found = (request.tokens, request.finish)
                assert found == expected(request, self.limits.max_context)
        self._poison_free_blocks()
        self.check()
        return moved

    def _run(self, item, tokens, table):
        size = self.limits.block_size
        before = [self.kv[table[at // size] * size + at % size] for at in range(item.start)]
        for token in tokens or [self.last_token[item.row]]:
            at = len(before)
            before.append(kv_of(token, before))
            self.kv[table[at // size] * size + at % size] = before[-1]
        if item.is_sampled:
            self.last_token[item.row] = next_token(before[-1])
        return next_token(before[-1])

    def _judge_preemptions(self):
        """Nobody may be preempted again before it has gained a token."""
        for request in self.live.values():
            times, length = self.preempted.get(request.id, (0, 0))
            if request.preemptions > times:
                assert request.preemptions == times + 1
                assert len(request.tokens) > length, "preempted twice in vain"
                flying = [i for launched in self.launched for i, _, _ in launched.items]
                gained = sum(i.request is request and i.is_sampled for i in flying)
                self.preempted[request.id] = (times + 1, len(request.tokens) + gained)

    def _poison_free_blocks(self):
        size = self.limits.block_size
        for block in self.scheduler.pool.free_blocks():
            if not self.index.has(block):
                self.kv[block * size : (block + 1) * size] = [next(self.poison)] * size

    def _end(self, request, reason):
        assert request.id not in self.ended, "ended twice"
        assert (request.phase, request.finish) == (Phase.FINISHED, reason)
        del self.live[request.id]
        self.written.pop(request.id, None)
        self.ended[request.id] = request

    # -- what must hold at all times ---------------------------------------------------------------

    def check(self):
        self.scheduler.check_integrity()
        pool, size = self.scheduler.pool, self.limits.block_size
        held = {block for request in self.live.values() for block in request.blocks}
        assert pool.free + pool.fenced + len(held) == self.limits.num_blocks - 1
        free = set(pool.free_blocks())
        for launched in self.launched:
            fresh = {block for block in launched.touched if not self.index.has(block)}
            assert not fresh & free, "free while a launched step writes it"
        for request in self.live.values():
            if request.phase is not Phase.RUNNING:
                assert (request.computed, request.row, request.blocks) == (0, -1, [])
                self.written.pop(request.id, None)
            elif request.id in self.written:
                assert request.published * size <= self.written[request.id], "published unwritten"
        assert self.steps_without_gain <= self._patience(), "no progress"

    def check_keys(self):
        """Keys recomputed from the tokens, by the definition in prefix.py."""
        size = self.limits.block_size
        for request in self.live.values():
            parent = sha256(self.root + request.salt).digest()
            for place, key in enumerate(request.keys):
                tokens = request.tokens[place * size : (place + 1) * size]
                assert len(tokens) == size, "a partial block has a key"
                data = b"".join(token.to_bytes(4, "little", signed=True) for token in tokens)
                parent = sha256(parent + data).digest()
                assert key == parent

    def _patience(self):
        chunk = self.limits.step_tokens - self.limits.max_running + 1
        return 4 + 2 * -(-self.limits.max_context // chunk) * self.limits.max_running

    def check_idle(self):
        self.check()
        pool = self.scheduler.pool
        assert (pool.free, pool.fenced) == (self.limits.num_blocks - 1, 0)
        assert not self.index.claimants()
        assert not self.scheduler.has_work()


def random_sizes(random):
    max_running = random.choice([1, 3, 4, 6])
    return limits(
        num_blocks=random.randint(4, 20),
        block_size=random.randint(1, 4),
        context_length=random.randint(8, 40),
        max_running=max_running,
        max_waiting=8,
        step_tokens=max_running + random.choice([0, 1, 4, 30]),
    )


def random_prompt(random, max_length):
    """Half of them begin alike, so that they share blocks."""
    length = random.randint(1, max_length // random.choice([1, 2, 3]))
    alike = random.choice([0, length, random.randint(0, length)])
    return [0] * alike + [random.randrange(4) for _ in range(length - alike)]


def play(world, random, operations, depth):
    """Random adds, aborts and half steps, then the end; raises at the first broken promise."""
    for _ in range(operations):
        draw = random.random()
        if draw < 0.25 and len(world.live) < world.limits.max_requests:
            world.add(
                random_prompt(random, world.limits.max_context),
                random.choice([-1, -1, -1, 0, 1, 9]),
                end_tokens=random.choice([END, frozenset(), frozenset(), frozenset()]),
                priority=random.choice([0, 0, 0, 1]),
                salt=random.choice([b"", b"", b"other"]),
            )
        elif draw < 0.28 and world.live:
            world.abort(random.choice(list(world.live.values())))
            world.check()
        elif len(world.launched) <= depth and (draw < 0.65 or not world.launched):
            world.launch()
        else:
            world.commit()
    world.check_keys()
    world.drain(depth)
