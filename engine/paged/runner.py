"""Turns a plan into tensors, runs the decoder, samples. No policy.

The device keeps, per row, the tokens so far and the block table; a step only sends row numbers,
positions and changed cells. A sampled token is written into the row's tokens on the device, where
the next step finds it, so that a step can be launched before the one before has been read back.

A step that only decodes is padded to a bucket, so that graphs may replay it: padding is a spare
row without tokens, whose block table is all null block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.api import SamplingParams
from engine.paged.attention.base import AttentionBatch, KvLayer
from engine.paged.decoder import Decoder
from engine.paged.device import BackEnds
from engine.paged.graphs import Capture, Compute, Graphs, Staging, bucket_of
from engine.paged.limits import Limits
from engine.paged.plan import StepPlan
from engine.paged.request import Request
from engine.paged.sampler import Lines, Sampled, Sampler, Way

PROMPT_ROWS = 128  # positions of a prompt whose logits are in memory together


@dataclass(frozen=True, slots=True)
class Options:
    """What the runner must know of a request besides its tokens."""

    sampling: SamplingParams
    seed: int  # 64 bits, signed
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class PromptPiece:
    """What a chunk of a prompt says of the tokens that follow in it; on the device.

    start         position of the first of these tokens
    logprobs      (count,) float32
    top_ids, top_logprobs   (count, n) the n best at each position
    """

    start: int
    logprobs: Tensor
    top_ids: Tensor
    top_logprobs: Tensor


@dataclass(frozen=True, slots=True)
class Launched:
    """A step on its way; `tokens` waits for the device, then `sampled` is on the host."""

    plan: StepPlan
    ids: tuple[int, ...] = ()  # requests with a sampled token, in the order of `sampled`
    sampled: Sampled | None = None
    copied: torch.cuda.Event | None = None  # None: `sampled` has been on the host all along
    prompts: Mapping[int, PromptPiece] = field(default_factory=dict)  # of requests that ask for it

    def tokens(self) -> dict[int, int]:
        """The sampled token of each request."""
        if self.sampled is None:
            return {}
        if self.copied is not None:
            self.copied.synchronize()
        return dict(zip(self.ids, self.sampled.tokens.tolist(), strict=True))


class Runner:
    """Owns the KV cache, the rows on the device, and the sampler. Call under inference mode."""

    def __init__(
        self,
        decoder: Decoder,
        back_ends: BackEnds,
        kv: Sequence[KvLayer],
        limits: Limits,
        device: torch.device,
        *,
        pads: bool,
        capture: Capture | None,
    ) -> None:
        """pads: fill decode steps up to buckets, as `capture` needs it; both: see `Graphs`."""
        self._decoder = decoder
        self._attention = back_ends.attention
        self._kv = kv
        self._block_size = limits.block_size
        self._max_context = limits.max_context
        self._device = device
        self._spare = rows = limits.max_running
        self._owners: list[tuple[int, int]] = [(-1, 0)] * rows
        # One column more than the context: the token after a full one is sampled, never computed.
        self._tokens = self._integers(rows + 1, limits.max_context + 1)
        self._block_tables = self._integers(rows + 1, limits.max_blocks)
        self._sampler = Sampler(rows + 1, device, back_ends.choose)
        self._pads = pads
        bucket = bucket_of(rows)
        self._each = torch.arange(bucket + 1, dtype=torch.int32, device=device)
        self._decoding = Staging(2 * bucket, device)  # a place of its own: graphs read it
        self._mixed = Staging(2 * limits.step_tokens + 6 * (rows + 1), device)
        kinds: dict[str, Compute] = {Way.ANY.name: self._decode}
        for way in (Way.GREEDY, Way.FEW):
            kinds[way.name] = partial(self._decode_and_choose, way)
        self.graphs = Graphs(kinds, capture)

    def launch(
        self, plan: StepPlan, options: Mapping[int, Options], masks: Mapping[int, Tensor]
    ) -> Launched:
        """Start a step. `options` by request id; `masks` of constrained requests by id."""
        self._write_cells(plan)
        for request, row, start, count, _ in plan.chunks():
            self._take_tokens(request, row, start, count, options[request.id])
        if plan.is_empty:
            return Launched(plan)
        ids = tuple(compress(plan.ids, plan.samples))
        asked = [n for id in ids if (n := options[id].logprobs) is not None]
        constrained = {line: masks[id] for line, id in enumerate(ids) if id in masks}
        most = max(asked) if asked else None
        prompts: dict[int, PromptPiece] = {}
        if plan.num_decodes == len(plan.ids):
            way = Way.ANY
            if self._pads and not asked and not constrained:
                way = self._sampler.way(plan.rows)
            found, lines = self._run_decodes(plan, way)
            if way is not Way.ANY:
                return Launched(plan, ids, *Sampled(found).to_host())
            logits = found
        else:
            logits, lines, prompts = self._run_mixed(plan, options)
        if not lines.rows:
            return Launched(plan, prompts=prompts)
        sampled = self._sampler.sample(logits, lines, self._tokens, constrained, most)
        self._tokens[lines.row_index, lines.positions] = sampled.tokens.int()
        return Launched(plan, ids, *sampled.to_host(), prompts)

    def _integers(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int32, device=self._device)

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

    def _run_decodes(self, plan: StepPlan, way: Way) -> tuple[Tensor, Lines]:
        """One token of each planned row; what `way` gives: logits, or tokens that are kept."""
        count = len(plan.rows)
        padding = bucket_of(count) - count if self._pads else 0
        contexts = [start + 1 for start in plan.starts]
        rows, ends = self._decoding.send(
            [*plan.rows, *[self._spare] * padding], [*contexts, *[0] * padding]
        )
        found = self.graphs.run(way.name, rows, ends)[:count]
        return found, Lines(plan.rows, contexts, rows[:count], ends[:count])

    def _decode(self, rows: Tensor, contexts: Tensor) -> Tensor:
        """Logits (bucket, vocab_size) of one token per row; a context of 0 is padding."""
        positions = (contexts - 1).clamp_min(0)
        tables = self._block_tables[rows]
        blocks = tables.gather(1, (positions // self._block_size)[:, None])[:, 0].long()
        batch = AttentionBatch(
            query_start=self._each[: len(rows) + 1],
            context_lens=contexts.int(),
            block_tables=tables,
            slot_mapping=blocks * self._block_size + positions % self._block_size,
            max_query_len=1,
            max_context_len=self._max_context,
        )
        return self._decoder.logits(self._forward(rows, positions, batch))

    def _decode_and_choose(self, way: Way, rows: Tensor, contexts: Tensor) -> Tensor:
        """The next tokens (bucket,), written to their rows; padding writes to the spare one."""
        tokens = self._sampler.choose(way, self._decode(rows, contexts), rows, contexts)
        self._tokens[rows, contexts] = tokens.int()
        return tokens

    def _run_mixed(
        self, plan: StepPlan, options: Mapping[int, Options]
    ) -> tuple[Tensor, Lines, dict[int, PromptPiece]]:
        """Decodes and chunks; logits (lines, vocab_size) of the rows that are sampled, and what
        was asked about prompts."""
        counts = np.array(plan.counts, dtype=np.int64)
        starts = np.array(plan.starts, dtype=np.int64)
        rows = np.array(plan.rows, dtype=np.int64)
        ends = counts.cumsum()
        first, contexts = ends - counts, starts + counts
        within = np.arange(ends[-1]) - np.repeat(first, counts)
        is_sampled = np.array(plan.samples)
        lines = rows[is_sampled], contexts[is_sampled]
        token_rows, positions, query_start, context_lens, all_rows, last, *on_device = (
            self._mixed.send(
                np.repeat(rows, counts),
                np.repeat(starts, counts) + within,
                np.concatenate(([0], ends)),
                contexts,
                rows,
                ends[is_sampled] - 1,
                *lines,
            )
        )
        width = -(-int(contexts.max()) // self._block_size)
        blocks = self._block_tables[token_rows, positions // self._block_size].long()
        batch = AttentionBatch(
            query_start=query_start.int(),
            context_lens=context_lens.int(),
            block_tables=self._block_tables[all_rows, :width],
            slot_mapping=blocks * self._block_size + positions % self._block_size,
            max_query_len=int(counts.max()),
            max_context_len=int(contexts.max()),
        )
        hidden = self._forward(token_rows, positions, batch)
        logits = self._decoder.logits(hidden[last]) if len(last) else hidden[:0]
        prompts = self._prompts(plan, options, hidden)
        return logits, Lines(*(line.tolist() for line in lines), *on_device), prompts

    def _prompts(
        self, plan: StepPlan, options: Mapping[int, Options], hidden: Tensor
    ) -> dict[int, PromptPiece]:
        """hidden  (num_tokens, hidden) of the whole step, item after item"""
        found: dict[int, PromptPiece] = {}
        end = 0
        for request, _, start, count, _ in plan.items():
            first, end = end, end + count
            top = options[request.id].prompt_logprobs
            told = min(count, request.prompt_length - 1 - start)
            if top is not None and told > 0:
                targets = request.tokens[start + 1 : start + 1 + told]
                rows = hidden[first : first + told]
                found[request.id] = self._prompt_piece(start + 1, rows, targets, top)
        return found

    def _prompt_piece(
        self, start: int, hidden: Tensor, targets: Sequence[int], top: int
    ) -> PromptPiece:
        parts = []
        for at in range(0, len(targets), PROMPT_ROWS):
            logprobs = torch.log_softmax(self._decoder.logits(hidden[at : at + PROMPT_ROWS]), -1)
            wanted = torch.tensor(targets[at : at + PROMPT_ROWS], device=self._device)
            best = logprobs.topk(top, -1)
            parts.append((logprobs.gather(-1, wanted[:, None])[:, 0], best.indices, best.values))
        return PromptPiece(start, *(torch.cat(column) for column in zip(*parts, strict=True)))

    def _forward(self, rows: Tensor, positions: Tensor, batch: AttentionBatch) -> Tensor:
        token_ids = self._tokens[rows, positions]
        return self._decoder.forward(token_ids, positions, batch, self._kv, self._attention)

    def _to_device(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)
