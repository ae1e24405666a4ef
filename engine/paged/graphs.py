"""Decode steps of a padded size, on a GPU captured as CUDA graphs; and how their input gets there.

Knows sizes and streams, nothing of models. Everything runs on the current stream.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Compute = Callable[[Tensor, Tensor], Tensor]
Replay = Callable[[], Tensor]
Capture = Callable[[Replay], Replay]
"""From a call to what repeats its work on the same memory."""


def bucket_of(count: int) -> int:
    """The padded number of sequences: a power of two up to 8, then a multiple of 8."""
    return 1 << (count - 1).bit_length() if count < 8 else -(-count // 8) * 8


class CudaCapture:
    """A Capture by CUDA graphs, in one memory pool: only one of them runs at a time."""

    def __init__(self) -> None:
        self._last: torch.cuda.CUDAGraph | None = None

    def __call__(self, compute: Replay) -> Replay:
        graph = torch.cuda.CUDAGraph()
        pool = None if self._last is None else self._last.pool()
        # The outer block returns to the stream: torch's own does not when the capture's end fails.
        with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph, pool=pool):
            result = compute()
        self._last = graph

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class Graphs:
    """Runs functions of (rows, contexts), captured once for each size when it comes again.

    They may read only memory that stays in its place, must not wait for the device, and return
    what is used up before the next call. What cannot be captured goes on being called.
    """

    def __init__(self, kinds: Mapping[str, Compute], capture: Capture | None) -> None:
        """capture: None calls the functions as they are, as it must be without a GPU."""
        self._kinds = kinds
        self._capture = capture
        self._ready: dict[tuple[str, int], Replay | None] = {}  # None: only called, so far or ever
        self._failures: dict[tuple[str, int], str] = {}

    def run(self, kind: str, rows: Tensor, contexts: Tensor) -> Tensor:
        """For sizes already seen, rows and contexts must lie where they lay before."""
        key = kind, len(rows)
        compute = partial(self._kinds[kind], rows, contexts)
        if self._capture is None or key in self._failures:
            return compute()
        if key not in self._ready:
            self._ready[key] = None  # the first call compiles what a capture could not
            return compute()
        replay = self._ready[key] or self._try_capture(key, compute)
        self._ready[key] = replay
        return compute() if replay is None else replay()

    @property
    def captured(self) -> int:
        return sum(replay is not None for replay in self._ready.values())

    @property
    def failures(self) -> str:
        """What is launched anew each time for want of a graph, and why; empty if all is well."""
        if not self._failures:
            return ""
        reason = next(iter(self._failures.values()))
        sizes = ", ".join(f"{kind} of {bucket}" for kind, bucket in self._failures)
        return f"no graphs for {sizes} ({reason})"

    def _try_capture(self, key: tuple[str, int], compute: Replay) -> Replay | None:
        assert self._capture is not None
        try:
            return self._capture(compute)
        except RuntimeError as error:  # all that torch and CUDA raise; a broken device fails again
            self._failures[key] = str(error).partition("\n")[0]
            return None


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
