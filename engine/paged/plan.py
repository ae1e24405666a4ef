"""What the scheduler tells the runner: the work of one step, in columns.

Immutable, so that a plan stays true while the next one is made. Knows nothing of how it is made.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from engine.paged.request import Request

Cell = tuple[int, int, int]  # (row, column, block id)


class StepItem(NamedTuple):
    """Compute tokens[start : start + num_tokens] of a request, and sample the next one or not."""

    request: Request
    row: int
    start: int
    num_tokens: int
    is_sampled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """The items of one step, each column as long as the others: decodes first, then chunks.

    A decode computes the token that its row sampled last, which may still be on the device only;
    it has count 1 and is sampled. The tokens of a chunk, even of a chunk of one, are known here:
    `request.tokens`. Cells are to be written before the step runs; afterwards a planned row's
    table is its request's blocks, then zeros.
    """

    epoch: int
    num_decodes: int
    requests: tuple[Request, ...]
    ids: tuple[int, ...]
    rows: tuple[int, ...]
    starts: tuple[int, ...]  # position of the first token
    counts: tuple[int, ...]  # tokens
    samples: tuple[bool, ...]
    cells: tuple[Cell, ...]  # changes to the block tables since the plan before

    @property
    def is_empty(self) -> bool:
        return not self.requests

    def items(self) -> Iterator[StepItem]:
        return self._items(0)

    def chunks(self) -> Iterator[StepItem]:
        """The items that are not decodes."""
        return self._items(self.num_decodes)

    def _items(self, first: int) -> Iterator[StepItem]:
        columns = (self.requests, self.rows, self.starts, self.counts, self.samples)
        return map(StepItem, *(column[first:] for column in columns))
