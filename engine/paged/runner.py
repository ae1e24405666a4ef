"""Turns a plan into tensors, runs the decoder, samples. No policy.

The device keeps, per row, the tokens so far and the block table; a step only sends row numbers,
positions and changed cells. A sampled token is written into the row's tokens on the device, where
the next step finds it, so that a step can be launched before the one before has been read back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.api import SamplingParams
from engine.paged.attention.base import AttentionBackend, AttentionBatch, KvLayer
from engine.paged.decoder import Decoder
from engine.paged.limits import Limits
from engine.paged.plan import StepPlan
from engine.paged.request import Request
from engine.paged.sampler import Sampled, Sampler


@dataclass(frozen=True, slots=True)
class Options:
    """What the runner must know of a request besides its tokens."""

    sampling: SamplingParams
    seed: int  # 64 bits, signed
    logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Launched:
    """A step on its way; `tokens` and the rest wait for the device."""

    plan: StepPlan
    ids: tuple[int, ...]  # requests with a sampled token, in the order of `sampled`
    sampled: Sampled | None

    def tokens(self) -> dict[int, int]:
        """The sampled token of each request; blocks until the device has them."""
        if self.sampled is None:
            return {}
        return dict(zip(self.ids, self.sampled.tokens.tolist(), strict=True))


class Runner:
    """Owns the KV cache, the rows on the device, and the sampler. Call under inference mode."""

    def __init__(
        self,
        decoder: Decoder,
        attention: AttentionBackend,
        kv: Sequence[KvLayer],
        limits: Limits,
        device: torch.device,
    ) -> None:
        self._decoder = decoder
        self._attention = attention
        self._kv = kv
        self._block_size = limits.block_size
        self._device = device
        self._owners: list[tuple[int, int]] = [(-1, 0)] * limits.max_running
        # One column more than the context: the token after a full one is sampled, never computed.
        shape = (limits.max_running, limits.max_context + 1)
        self._tokens = torch.zeros(shape, dtype=torch.int32, device=device)
        shape = (limits.max_running, limits.max_blocks)
        self._block_tables = torch.zeros(shape, dtype=torch.int32, device=device)
        self._sampler = Sampler(limits.max_running, device)

    def launch(
        self, plan: StepPlan, options: Mapping[int, Options], masks: Mapping[int, Tensor]
    ) -> Launched:
        """Start a step. `options` by request id; `masks` of constrained requests by id."""
        self._write_cells(plan)
        for request, row, start, count, _ in plan.chunks():
            self._take_tokens(request, row, start, count, options[request.id])
        if plan.is_empty:
            return Launched(plan, (), None)
        rows, positions, batch = self._batch(plan)
        token_ids = self._tokens[rows, positions]
        hidden = self._decoder.forward(token_ids, positions, batch, self._kv, self._attention)
        return self._sample(plan, hidden, batch, options, masks)

    def _write_cells(self, plan: StepPlan) -> None:
        if plan.cells:
            row, column, block = self._to_device(np.array(plan.cells, dtype=np.int64).T)
            self._block_tables[row, column] = block.int()

    def _take_tokens(
        self, request: Request, row: int, start: int, count: int, options: Options
    ) -> None:
        """The tokens of a chunk; with the first chunk of a row's new owner, all it has."""
        owner = (request.id, request.preemptions)
        if self._owners[row] != owner:
            self._owners[row] = owner
            self._sampler.set_row(row, options.sampling, options.seed)
            start, count = 0, len(request.tokens)
        known = np.array(request.tokens[start : start + count], dtype=np.int32)
        self._tokens[row, start : start + count] = torch.from_numpy(known).to(self._device)

    def _batch(self, plan: StepPlan) -> tuple[Tensor, Tensor, AttentionBatch]:
        counts = np.array(plan.counts, dtype=np.int64)
        starts = np.array(plan.starts, dtype=np.int64)
        rows = np.array(plan.rows, dtype=np.int64)
        ends = counts.cumsum()
        first = ends - counts
        within = np.arange(ends[-1]) - np.repeat(first, counts)
        token_rows, positions = self._to_device(
            np.stack((np.repeat(rows, counts), np.repeat(starts, counts) + within))
        )
        contexts = starts + counts
        width = -(-int(contexts.max()) // self._block_size)
        tables = self._block_tables[self._to_device(rows), :width]
        blocks = self._block_tables[token_rows, positions // self._block_size].long()
        batch = AttentionBatch(
            query_start=self._to_device(np.concatenate(([0], ends)).astype(np.int32)),
            context_lens=self._to_device(contexts.astype(np.int32)),
            block_tables=tables,
            slot_mapping=blocks * self._block_size + positions % self._block_size,
            max_query_len=int(counts.max()),
            max_context_len=int(contexts.max()),
        )
        return token_rows, positions, batch

    def _sample(
        self,
        plan: StepPlan,
        hidden: Tensor,
        batch: AttentionBatch,
        options: Mapping[int, Options],
        masks: Mapping[int, Tensor],
    ) -> Launched:
        lines = [place for place, sampled in enumerate(plan.samples) if sampled]
        if not lines:
            return Launched(plan, (), None)
        ids = tuple(plan.ids[place] for place in lines)
        rows = [plan.rows[place] for place in lines]
        after = np.array([plan.starts[place] + plan.counts[place] for place in lines])
        row_index, positions = self._to_device(np.stack((np.array(rows), after)))
        last = batch.query_start[1:].long() - 1
        if len(lines) < len(plan.samples):
            last = last[self._to_device(np.array(lines))]
        logits = self._decoder.logits(hidden[last])
        asked = [n for id in ids if (n := options[id].logprobs) is not None]
        sampled = self._sampler.sample(
            logits,
            rows,
            positions,
            self._tokens,
            {line: masks[id] for line, id in enumerate(ids) if id in masks},
            max(asked) if asked else None,
        )
        self._tokens[row_index, positions] = sampled.tokens.int()
        return Launched(plan, ids, sampled)

    def _to_device(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)
