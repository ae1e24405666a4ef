"""The pool of KV blocks: who may write where, and from when on.

Knows reference counts, fences and the order in which blocks are given out again. Does not know
tokens or requests; of the prefix index it knows only whether a block is worth keeping.
"""

from array import array
from collections import deque
from collections.abc import Iterable, Sequence

from engine.paged.prefix import PrefixIndex
from engine.paged.request import IntegrityError


class BlockPool:
    """Blocks 1 to num_blocks - 1, each free, fenced or referenced; block 0 is the null block.

    A released block that a launched step may still touch is *fenced*: it is not given out before
    that step has been committed. Free blocks form a list, least recently used first, linked
    through two arrays whose element 0 is the list's anchor. Published blocks keep their content
    until they are given out, and may be shared again straight from the list or from the fence.
    """

    def __init__(self, num_blocks: int, index: PrefixIndex) -> None:
        self.num_blocks = num_blocks
        self.free = num_blocks - 1  # blocks that `allocate` can give out now
        self.fenced = 0  # blocks that become free with the commit of a launched step
        self._index = index
        self._references = array("i", bytes(4 * num_blocks))
        self._fence = array("q", bytes(8 * num_blocks))  # epoch; 0: not fenced
        self._fences: deque[tuple[int, list[int]]] = deque()
        self._next = array("i", [*range(1, num_blocks), 0])
        self._previous = array("i", [num_blocks - 1, *range(num_blocks - 1)])

    def allocate(self, count: int) -> list[int]:
        """`count` blocks with one reference each, the least recently used, their keys forgotten."""
        if count > self.free:
            raise IntegrityError(f"{count} blocks wanted, {self.free} are free")
        blocks = []
        for _ in range(count):
            block = self._next[0]
            self._unlink(block)
            self._index.forget(block)
            self._references[block] = 1
            blocks.append(block)
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Add a reference to published blocks, wherever they are."""
        for block in blocks:
            if self._references[block] == 0:
                if self._fence[block]:
                    self._fence[block] = 0
                    self.fenced -= 1
                else:
                    self._unlink(block)
            self._references[block] += 1

    def unreferenced(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` count as free or fenced now, and would no longer once shared."""
        return sum(self._references[block] == 0 for block in blocks)

    def release(self, blocks: Sequence[int], epoch: int) -> None:
        """Drop one reference from each block of a table, in the table's order.

        Blocks without a reference left become free when step `epoch` is committed; 0: now.
        """
        idle = []
        for block in blocks:
            left = self._references[block] - 1
            if left < 0 or block == 0:
                raise IntegrityError(f"block {block} is released, but nobody refers to it")
            self._references[block] = left
            if left == 0:
                idle.append(block)
        if epoch == 0:
            self._set_free(idle)
        elif idle:
            for block in idle:
                self._fence[block] = epoch
            self._fences.append((epoch, idle))
            self.fenced += len(idle)

    def settle(self, epoch: int) -> None:
        """Free what waited for step `epoch`, which has been committed."""
        while self._fences and self._fences[0][0] <= epoch:
            fence, blocks = self._fences.popleft()
            back = []
            for block in blocks:  # those shared meanwhile are not fenced, or by a later release
                if self._fence[block] == fence:
                    self._fence[block] = 0
                    back.append(block)
            self.fenced -= len(back)
            self._set_free(back)

    def _set_free(self, blocks: Sequence[int]) -> None:
        """Published blocks to the list's end, a prefix's tail before its head; others to its front.

        So what nobody can hit is reused first, and prefixes lose their tails before their heads.
        """
        for block in reversed(blocks):
            if self._index.has(block):
                self._link(self._previous[0], block, 0)
            else:
                self._link(0, block, self._next[0])

    def _link(self, before: int, block: int, after: int) -> None:
        self._previous[block], self._next[block] = before, after
        self._next[before] = self._previous[after] = block
        self.free += 1

    def _unlink(self, block: int) -> None:
        before, after = self._previous[block], self._next[block]
        self._next[before], self._previous[after] = after, before
        self.free -= 1

    def free_blocks(self) -> list[int]:
        """The free list, next to be given out first."""
        blocks: list[int] = []
        block = self._next[0]
        while block and len(blocks) < self.num_blocks:
            blocks.append(block)
            block = self._next[block]
        return blocks

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise IntegrityError unless every block is accounted for by `tables`, fence or list."""
        references = [0] * self.num_blocks
        for table in tables:
            if len(set(table)) != len(table) or 0 in table:
                raise IntegrityError(f"table {table} has a block twice, or the null block")
            for block in table:
                references[block] += 1
        if references != self._references.tolist():
            raise IntegrityError("reference counts differ from the tables")
        free = self.free_blocks()
        fenced = [block for block, epoch in enumerate(self._fence) if epoch]
        if len(free) != self.free or len(fenced) != self.fenced:
            raise IntegrityError(f"{len(free)} free and {len(fenced)} fenced blocks, miscounted")
        used = [block for block, count in enumerate(references) if count]
        if sorted([*free, *fenced, *used]) != list(range(1, self.num_blocks)):
            raise IntegrityError("a block is lost, or has two of: free, fenced, referenced")
