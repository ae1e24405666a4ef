"""Attention in plain torch: the back end on the CPU, the fallback and the oracle elsewhere.

A step is cut into pieces. Sequences that decode are computed together, block by block: each block
that one of them sees is a matrix of a batch that is multiplied where it lies, and what a sequence
gets from its blocks is added up; so the cost is that of the keys there are, without padding or
copies. A prefill chunk gathers its sequence's blocks, a few queries at a time.

Slots that a sequence has not written must not matter, whatever is in them. A chunk does not read
them; decoding hides them, and a block is cleared when its first slot is written, since a NaN in it
could not be hidden.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.paged.attention.base import AttentionBatch, AttentionParams, KvLayer

_INT8_MAX = 127
_QUERIES = 256  # of a chunk that continues a context, per piece: bounds the mask
_PADDING = 4  # the longest of sequences decoded together has at most so many blocks per block of
# the shortest: scores, though not keys, are padded to its length
_RUNS = 8  # blocks in more pieces than these are copied together first


@dataclass(frozen=True, slots=True)
class _Decodes:
    """One query of each of `rows` sequences, against `entries` blocks, grouped by sequence.

    tokens   the queries' places in the step, (rows,) int64 or a slice
    runs     (first block, blocks) that lie behind each other in the cache; empty: `blocks` tells
    blocks   (entries,) int64
    owner    (entries,) int64: the sequence
    column   (entries,) int64: which of the sequence's blocks it is
    columns  of the longest sequence
    hidden   (entries, 1, block_size) float32: -inf for slots that the query does not see, else 0
    sums     (rows, entries) float32: 1 where the block is the sequence's
    """

    tokens: Tensor | slice
    runs: tuple[tuple[int, int], ...]
    blocks: Tensor
    owner: Tensor
    column: Tensor
    columns: int
    hidden: Tensor
    sums: Tensor


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Queries of one sequence.

    tokens  their places in the step
    blocks  (n,) int64: where keys lie, from slot `skip` of the first block on, `keys` of them
    mask    (queries, keys), added to the scores; None: only the future is hidden
    """

    tokens: slice
    blocks: Tensor
    skip: int
    keys: int
    mask: Tensor | None


_Piece = _Decodes | _Chunk


class TorchPaged:
    """An AttentionBackend for any device.

    Remembers what it made of the step it saw last, so a step needs an AttentionBatch of its own.
    """

    by_head = True

    def __init__(self) -> None:
        self._batch: AttentionBatch | None = None
        self._pieces: dict[tuple[int, int], tuple[_Piece, ...]] = {}
        self._slots: Tensor | None = None
        self._places: tuple[Tensor, Tensor, Tensor] | None = None

    def store(self, k: Tensor, v: Tensor, cache: KvLayer, slot_mapping: Tensor) -> None:
        block, offset, fresh = self._places_of(slot_mapping, cache.k.shape[1])
        for new, kept, scales in ((k, cache.k, cache.k_scale), (v, cache.v, cache.v_scale)):
            values = new
            if scales is not None:
                values, scale = quantize_kv(new)
                scales.index_fill_(0, fresh, 0)
                scales[block, offset] = scale
            if len(fresh):
                kept.index_fill_(0, fresh, 0)
            kept[block, offset] = values

    def _places_of(self, slots: Tensor, block_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Block and offset of each slot, and the blocks that are begun."""
        if self._places is None or slots is not self._slots:
            block, offset = slots // block_size, slots % block_size
            self._slots, self._places = slots, (block, offset, block[offset == 0])
        return self._places

    def attend(
        self, q: Tensor, cache: KvLayer, batch: AttentionBatch, params: AttentionParams
    ) -> Tensor:
        pieces = self._pieces_of(batch, cache, params.window)
        if len(pieces) == 1 and pieces[0].tokens == slice(0, len(q)):
            return self._attend_piece(q, cache, pieces[0], params)
        out = torch.zeros_like(q)
        for piece in pieces:
            out[piece.tokens] = self._attend_piece(q[piece.tokens], cache, piece, params)
        return out

    def _pieces_of(self, batch: AttentionBatch, cache: KvLayer, window: int) -> tuple[_Piece, ...]:
        if batch is not self._batch:
            self._batch, self._pieces = batch, {}
        key = (cache.k.shape[1], window)
        if key not in self._pieces:
            self._pieces[key] = tuple(_Cut(batch, *key).pieces())
        return self._pieces[key]

    def _attend_piece(
        self, q: Tensor, cache: KvLayer, piece: _Piece, params: AttentionParams
    ) -> Tensor:
        """q (queries, num_heads, head_dim) → the same shape."""
        if isinstance(piece, _Decodes):
            return _decode(q, cache, piece, params)
        k, v = (
            _dense(kept, scales, piece.blocks, q.dtype)
            .transpose(0, 1)
            .flatten(1, 2)[:, piece.skip : piece.skip + piece.keys]
            for kept, scales in ((cache.k, cache.k_scale), (cache.v, cache.v_scale))
        )
        # each key and value head is a batch entry, the heads that share it are its heads
        grouped = q.view(len(q), len(k), -1, q.shape[2]).permute(1, 2, 0, 3)
        shape = (-1, grouped.shape[1], -1, -1)
        k, v = k.unsqueeze(1).expand(shape), v.unsqueeze(1).expand(shape)
        return _attention(grouped, k, v, piece.mask, params).permute(2, 0, 1, 3).reshape(q.shape)


def _decode(q: Tensor, cache: KvLayer, piece: _Decodes, params: AttentionParams) -> Tensor:
    """See `_Decodes`. In float32: a processor is slow with a few rows of bfloat16."""
    _, block_size, num_kv_heads, head_dim = cache.k.shape
    entries, (rows, num_heads, _) = len(piece.owner), q.shape
    asking = (q.float() * params.scale).index_select(0, piece.owner)
    asking = asking.view(entries * num_kv_heads, -1, head_dim)
    scores = torch.cat(
        [
            torch.bmm(asking[part], k.transpose(1, 2))
            for part, k in _matrices(cache.k, cache.k_scale, piece)
        ]
    ).view(entries, num_heads, block_size)
    if params.soft_cap:
        scores = scores.div_(params.soft_cap).tanh_().mul_(params.soft_cap)
    scores += piece.hidden
    table = scores.new_full((rows, num_heads, piece.columns, block_size), float("-inf"))
    table[piece.owner, :, piece.column] = scores
    weights = torch.softmax(table.flatten(2), -1).view(table.shape)[piece.owner, :, piece.column]
    weights = weights.view(entries * num_kv_heads, -1, block_size)
    found = torch.cat(
        [torch.bmm(weights[part], v) for part, v in _matrices(cache.v, cache.v_scale, piece)]
    )
    return (piece.sums @ found.view(entries, -1)).view(q.shape).to(q.dtype)


def _matrices(
    kept: Tensor, scales: Tensor | None, piece: _Decodes
) -> Iterator[tuple[slice, Tensor]]:
    """Matrices (block_size, head_dim) of every entry and key head, and which of them they are."""
    heads, start = kept.shape[2], 0
    if not piece.runs:
        everything = slice(0, len(piece.owner) * heads)
        yield everything, _dense(kept, scales, piece.blocks, torch.float32).flatten(0, 1)
    for first, count in piece.runs:
        blocks, end = slice(first, first + count), start + count * heads
        yield slice(start, end), _dense(kept, scales, blocks, torch.float32).flatten(0, 1)
        start = end


def _dense(
    kept: Tensor, scales: Tensor | None, blocks: Tensor | slice, dtype: torch.dtype
) -> Tensor:
    """Blocks of the cache as numbers of `dtype`, (blocks, num_kv_heads, block_size, head_dim)."""
    found = kept.transpose(1, 2)[blocks]
    if scales is None:
        return found.to(dtype)
    return (found * scales.transpose(1, 2)[blocks].unsqueeze(-1).float()).to(dtype)


class _Cut:
    """Cuts one step into pieces, for all layers of one window."""

    def __init__(self, batch: AttentionBatch, block_size: int, window: int) -> None:
        self._tables, self._size = batch.block_tables, block_size
        self._window = window
        self._device = batch.block_tables.device
        self._starts: list[int] = batch.query_start.tolist()
        self._contexts: list[int] = batch.context_lens.tolist()

    def pieces(self) -> Iterator[_Piece]:
        decoding = []
        for row, context in enumerate(self._contexts):
            queries = self._starts[row + 1] - self._starts[row]
            if context == 0 or queries == 0:
                continue  # padding
            if queries == 1:
                decoding.append(row)
            else:
                yield from self._chunks(row, queries)
        for group in self._groups(decoding):
            yield self._decode(group)

    def _span(self, row: int) -> tuple[int, int]:
        """Columns of the first block that the last query sees, and behind the last one."""
        return self._first(self._contexts[row]) // self._size, -(-self._contexts[row] // self._size)

    def _first(self, context: int) -> int:
        """The first position that the query at the end of `context` sees."""
        return max(0, context - self._window) if self._window else 0

    def _groups(self, rows: list[int]) -> Iterator[list[int]]:
        """Rows of similar length, in their own order within a group."""
        sizes = {row: last - first for row in rows for first, last in [self._span(row)]}
        group: list[int] = []
        for row in sorted(rows, key=lambda row: sizes[row]):
            if group and sizes[row] > _PADDING * sizes[group[0]]:
                yield sorted(group)
                group = []
            group.append(row)
        if group:
            yield sorted(group)

    def _decode(self, rows: list[int]) -> _Decodes:
        tables = self._tables[rows].tolist()
        entries = []  # (block, owner, column), where a block's neighbour in memory comes next
        for owner, row in enumerate(rows):
            first, last = self._span(row)
            entries += [(tables[owner][at], owner, at - first) for at in range(first, last)]
        entries.sort()
        blocks, owner, column = self._integers(entries).T
        contexts = self._integers([self._contexts[row] for row in rows])[owner, None]
        starts = self._integers([self._span(row)[0] for row in rows])[owner]
        positions = (starts + column)[:, None] * self._size + self._each(self._size)
        hidden = positions >= contexts
        if self._window:
            hidden |= positions < contexts - self._window
        tokens = [self._starts[row] for row in rows]
        is_slice = tokens == list(range(tokens[0], tokens[0] + len(rows)))
        return _Decodes(
            tokens=slice(tokens[0], tokens[0] + len(rows)) if is_slice else self._integers(tokens),
            runs=_runs([block for block, _, _ in entries]),
            blocks=blocks,
            owner=owner,
            column=column,
            columns=1 + max(column for _, _, column in entries),
            hidden=self._hide(hidden).unsqueeze(1),
            sums=(owner == self._each(len(rows))[:, None]).float(),
        )

    def _chunks(self, row: int, queries: int) -> Iterator[_Chunk]:
        """A sequence's prefill: in one piece if it begins here, else a few queries at a time."""
        start, context = self._starts[row], self._contexts[row]
        hides_only_future = queries == context and self._first(context) == 0
        step = queries if hides_only_future else _QUERIES
        for begin in range(0, queries, step):
            end = min(begin + step, queries)
            position = context - queries + begin  # of the piece's first query
            last = context - queries + end
            first = self._first(position + 1)
            mask = None
            if not hides_only_future:
                positions = torch.arange(first, last, device=self._device)
                asking = torch.arange(position, last, device=self._device).unsqueeze(1)
                hidden = positions > asking
                if self._window:
                    hidden |= positions <= asking - self._window
                mask = self._hide(hidden)
            at = first // self._size
            blocks = self._tables[row, at : -(-last // self._size)].long()
            tokens = slice(start + begin, start + end)
            yield _Chunk(tokens, blocks, first - at * self._size, last - first, mask)

    def _hide(self, hidden: Tensor) -> Tensor:
        """-inf where `hidden`, else 0; float32."""
        zeros = torch.zeros(hidden.shape, device=self._device)
        return zeros.masked_fill_(hidden, float("-inf"))

    def _integers(self, numbers: Sequence[object]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._device)

    def _each(self, count: int) -> Tensor:
        return torch.arange(count, device=self._device)


def _runs(blocks: list[int]) -> tuple[tuple[int, int], ...]:
    """(first, count) of ascending neighbours among `blocks`; nothing if there are too many."""
    places = range(len(blocks))
    starts = [at for at in places if at == 0 or blocks[at] != blocks[at - 1] + 1]
    if len(starts) > _RUNS:
        return ()
    ends = [*starts[1:], len(blocks)]
    return tuple((blocks[a], b - a) for a, b in zip(starts, ends, strict=True))


def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, params: AttentionParams
) -> Tensor:
    """q (batch, heads, queries, head_dim), k and v with keys for queries → the shape of q.

    Without a mask, queries and keys are as many and the future is hidden.
    """
    if not params.soft_cap:
        mask = None if mask is None else mask.to(q.dtype)
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=params.scale
        )
    scores = torch.matmul(q, k.transpose(-1, -2)).float() * (params.scale / params.soft_cap)
    scores = scores.tanh_() * params.soft_cap
    if mask is None:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu_(1)
        scores.masked_fill_(future, float("-inf"))
    else:
        scores += mask
    return torch.matmul(torch.softmax(scores, -1).to(v.dtype), v)


def quantize_kv(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (num_tokens, num_kv_heads, head_dim) → int8 of the same shape and its float16 scales.

    One scale per token and head. The rounded scale divides, so that q * scale is the nearest;
    it is a normal number also for tiny x, whose error stays below what float16 can tell apart.
    """
    smallest = torch.finfo(torch.float16).tiny
    scale = (x.abs().amax(-1).float() / _INT8_MAX).clamp_min(smallest).half()
    steps = x.float() / scale.float().unsqueeze(-1)
    return steps.round().clamp(-_INT8_MAX, _INT8_MAX).to(torch.int8), scale
