"""Decode steps of a padded size, on a GPU captured as CUDA graphs; and how their input gets there.

Knows sizes and streams, nothing of models. Everything runs on the current stream.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def bucket_of(count: int) -> int:
    """The padded number of sequences: a power of two up to 8, then a multiple of 8."""
    return 1 << (count - 1).bit_length() if count < 8 else -(-count // 8) * 8


class Graphs:
    """Runs a function of (rows, contexts), captured once for each size when it comes again.

    `compute` may read only memory that stays in its place, must not wait for the device, and
    returns logits that are used up before the next call.
    """

    def __init__(self, compute: Callable[[Tensor, Tensor], Tensor], *, captures: bool) -> None:
        """captures: False calls `compute` as it is, as it must be without a GPU."""
        self._compute = compute
        self._captures = captures
        self._compiled: set[int] = set()
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def run(self, rows: Tensor, contexts: Tensor) -> Tensor:
        """For sizes already seen, rows and contexts must lie where they lay before."""
        bucket = len(rows)
        if not self._captures or bucket not in self._compiled:
            self._compiled.add(bucket)  # the first call compiles what a capture could not
            return self._compute(rows, contexts)
        if bucket not in self._captured:
            self._captured[bucket] = self._capture(rows, contexts)
        graph, logits = self._captured[bucket]
        graph.replay()
        return logits

    def _capture(self, rows: Tensor, contexts: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        """One memory pool for all sizes: only one of them runs at a time."""
        pool = next((graph.pool() for graph, _ in self._captured.values()), None)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            logits = self._compute(rows, contexts)
        return graph, logits


class Staging:
    """Integers on their way to the device: two pinned buffers in turn, one place at the device."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        """capacity: integers of one `send`."""
        pins = device.type == "cuda"
        self._there = torch.zeros(capacity, dtype=torch.int64, device=device)
        self._here = [torch.empty(capacity, dtype=torch.int64, pin_memory=pins) for _ in range(2)]
        self._copied = [torch.cuda.Event() for _ in range(2)] if pins else []
        self._turn = 0

    def send(self, *columns: npt.ArrayLike) -> tuple[Tensor, ...]:
        """The columns as int64 on the device, at the same place for the same lengths.

        What was sent before is overwritten, in the order of the stream.
        """
        arrays = [np.asarray(column, dtype=np.int64) for column in columns]
        sizes = [len(array) for array in arrays]
        self._turn ^= 1
        here, total = self._here[self._turn], sum(sizes)
        if self._copied:
            self._copied[self._turn].synchronize()
        np.concatenate(arrays, out=here.numpy()[:total])
        self._there[:total].copy_(here[:total], non_blocking=True)
        if self._copied:
            self._copied[self._turn].record()
        parts: tuple[Tensor, ...] = self._there[:total].split(sizes)
        return parts
