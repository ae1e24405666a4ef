"""Attention in plain torch: the back end on the CPU, the fallback and the oracle elsewhere.

A step is cut into pieces: sequences that decode, grouped by length so that padding stays small and
a group's keys stay in the processor's cache, and prefill chunks, a few queries at a time. Each
piece gathers its keys and values by slot and calls `scaled_dot_product_attention`. Only slots of
the sequence itself are ever read: what lies in free, padding or half-filled blocks cannot matter.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.paged.attention.base import AttentionBatch, AttentionParams, KvLayer

_INT8_MAX = 127
_GROUP_BYTES = 2 << 20  # of keys that a group of decoding sequences gathers: they stay cached
_QUERIES = 256  # of a chunk that continues a context, per piece: bounds the mask
_PADDING = 1.25  # a group's longest sequence may exceed its shortest by this factor


@dataclass(frozen=True, slots=True)
class _Piece:
    """Queries that are attended in one call: `rows` sequences with `queries` tokens each.

    tokens  (rows * queries,) int64 or a slice: the queries' places in the step
    slots   (rows, keys) int64: where the keys lie
    mask    (rows or 1, 1, queries, keys), added to the scores; None: nothing is hidden, or only
            what `is_causal` hides
    """

    tokens: Tensor | slice
    slots: Tensor
    mask: Tensor | None
    is_causal: bool = False


class TorchPaged:
    """An AttentionBackend for any device.

    Remembers the pieces of the step it saw last, so a step needs an AttentionBatch of its own, and
    keeps the memory it gathers into, which would cost more to map again than to fill.
    """

    def __init__(self, group_bytes: int = _GROUP_BYTES) -> None:
        self._group_bytes = group_bytes
        self._batch: AttentionBatch | None = None
        self._pieces: dict[tuple[int, int], tuple[_Piece, ...]] = {}
        self._scratch: dict[tuple[str, torch.dtype], Tensor] = {}

    def store(self, k: Tensor, v: Tensor, cache: KvLayer, slot_mapping: Tensor) -> None:
        for new, kept, scales in ((k, cache.k, cache.k_scale), (v, cache.v, cache.v_scale)):
            values = new
            if scales is not None:
                values, scale = quantize_kv(new)
                scales.view(-1, scales.shape[-1]).index_copy_(0, slot_mapping, scale)
            kept.view(-1, *kept.shape[2:]).index_copy_(0, slot_mapping, values)

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
        block_size = cache.k.shape[1]
        key = (block_size, window)
        if key not in self._pieces:
            slot_bytes = cache.k[0, 0].numel() * 4  # decoding computes in float32
            cut = _Cut(batch, block_size, window)
            self._pieces[key] = tuple(cut.pieces(self._group_bytes // slot_bytes))
        return self._pieces[key]

    def _attend_piece(
        self, q: Tensor, cache: KvLayer, piece: _Piece, params: AttentionParams
    ) -> Tensor:
        """q (rows * queries, num_heads, head_dim) → the same shape."""
        num_kv_heads, head_dim = cache.k.shape[2:]
        decodes = len(q) == len(piece.slots)
        # a processor multiplies matrices in bfloat16 well, but not the few rows of decoding
        dtype = torch.float32 if decodes and q.device.type == "cpu" else q.dtype
        k = self._gather("k", cache.k, cache.k_scale, piece.slots, dtype)
        v = self._gather("v", cache.v, cache.v_scale, piece.slots, dtype)
        if decodes:  # heads that share keys are the queries of one head
            grouped = q.view(len(q), num_kv_heads, -1, head_dim).to(dtype)
            return _attention(grouped, k, v, piece, params).reshape(q.shape).to(q.dtype)
        # a chunk: each key and value head is a batch entry, the heads that share it are its heads
        grouped = q.view(len(q), num_kv_heads, -1, head_dim).permute(1, 2, 0, 3)
        shape = (num_kv_heads, grouped.shape[1], -1, head_dim)
        k, v = k.transpose(0, 1).expand(shape), v.transpose(0, 1).expand(shape)
        return _attention(grouped, k, v, piece, params).permute(2, 0, 1, 3).reshape(q.shape)

    def _gather(
        self, name: str, kept: Tensor, scales: Tensor | None, slots: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """(rows, num_kv_heads, keys, head_dim), a view of scratch memory (rows, keys, …)."""
        flat, heads = slots.view(-1), kept.shape[2:]
        found = self._room(name, (len(flat), *heads), kept)
        torch.index_select(kept.view(-1, *heads), 0, flat, out=found)
        if scales is not None:
            scale = scales.view(-1, scales.shape[-1]).index_select(0, flat).unsqueeze(-1)
            found = (found * scale.float()).to(dtype)
        elif dtype != kept.dtype:
            found = self._room(name, found.shape, found, dtype).copy_(found)
        return found.view(*slots.shape, *heads).transpose(1, 2)

    def _room(
        self, name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Scratch memory of this shape, with the device and by default the dtype of `like`."""
        key, size = (name, dtype or like.dtype), math.prod(shape)
        room = self._scratch.get(key)
        if room is None or room.numel() < size:
            room = self._scratch[key] = torch.empty(size, dtype=key[1], device=like.device)
        return room[:size].view(shape)


def quantize_kv(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (num_tokens, num_kv_heads, head_dim) → int8 of the same shape and its float16 scales.

    One scale per token and head. The rounded scale divides, so that q * scale is the nearest;
    it is a normal number also for tiny x, whose error stays below what float16 can tell apart.
    """
    smallest = torch.finfo(torch.float16).tiny
    scale = (x.abs().amax(-1).float() / _INT8_MAX).clamp_min(smallest).half()
    steps = x.float() / scale.float().unsqueeze(-1)
    return steps.round().clamp(-_INT8_MAX, _INT8_MAX).to(torch.int8), scale


class _Cut:
    """Cuts one step into pieces, for all layers of one window."""

    def __init__(self, batch: AttentionBatch, block_size: int, window: int) -> None:
        self._block_tables, self._block_size = batch.block_tables, block_size
        self._window = window
        self._device = batch.block_tables.device
        self._starts: list[int] = batch.query_start.tolist()
        self._contexts: list[int] = batch.context_lens.tolist()
        self._first = [max(0, c - window) if window else 0 for c in self._contexts]

    def pieces(self, group_tokens: int) -> Iterator[_Piece]:
        decoding, rows = [], range(len(self._contexts))
        for row in rows:
            queries = self._starts[row + 1] - self._starts[row]
            if self._contexts[row] == 0 or queries == 0:
                continue  # padding
            if queries == 1:
                decoding.append(row)
            else:
                yield from self._chunks(row, queries)
        for group in self._groups(decoding, group_tokens):
            yield self._decode(group)

    def _keys(self, row: int) -> int:
        """Keys that the decoding query of a sequence sees."""
        return self._contexts[row] - self._first[row]

    def _groups(self, rows: list[int], group_tokens: int) -> Iterator[list[int]]:
        """Rows of similar length, in their own order within a group."""
        group: list[int] = []
        for row in sorted(rows, key=self._keys):
            keys = self._keys(row)
            full = (len(group) + 1) * keys > group_tokens
            if group and (full or keys > self._keys(group[0]) * _PADDING + self._block_size):
                yield sorted(group)
                group = []
            group.append(row)
        if group:
            yield sorted(group)

    def _decode(self, rows: list[int]) -> _Piece:
        counts = [self._keys(row) for row in rows]
        keys = max(counts)
        first = self._column([self._first[row] for row in rows])
        offsets = torch.arange(keys, device=self._device)
        mask = None
        if min(counts) < keys:  # the surplus reads the sequence's own first key, hidden
            seen = offsets < self._column(counts)
            offsets = torch.where(seen, offsets, 0)
            mask = self._hide(~seen).view(len(rows), 1, 1, keys)
        slots = self._slots(self._column(rows).view(-1), first + offsets)
        tokens = [self._starts[row] for row in rows]
        if tokens == list(range(tokens[0], tokens[0] + len(rows))):
            return _Piece(slice(tokens[0], tokens[0] + len(rows)), slots, mask)
        return _Piece(torch.tensor(tokens, device=self._device), slots, mask)

    def _chunks(self, row: int, queries: int) -> Iterator[_Piece]:
        """A sequence's prefill: in one piece if it begins here, else a few queries at a time."""
        start, context = self._starts[row], self._contexts[row]
        hides_only_future = queries == context and (not self._window or context <= self._window)
        step = queries if hides_only_future else _QUERIES
        for begin in range(0, queries, step):
            end = min(begin + step, queries)
            position = context - queries + begin  # of the piece's first query
            last = context - queries + end
            first = max(0, position - self._window + 1) if self._window else 0
            positions = torch.arange(first, last, device=self._device)
            mask = None
            if not hides_only_future:
                asking = torch.arange(position, last, device=self._device).unsqueeze(1)
                hidden = positions > asking
                if self._window:
                    hidden |= positions <= asking - self._window
                mask = self._hide(hidden).view(1, 1, end - begin, -1)
            slots = self._slots(self._column([row]).view(-1), positions.unsqueeze(0))
            tokens = slice(start + begin, start + end)
            yield _Piece(tokens, slots, mask, is_causal=hides_only_future)

    def _slots(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Where positions (rows, keys) of the sequences in `rows` lie, int64."""
        blocks = self._block_tables[rows].gather(1, positions // self._block_size).long()
        return blocks * self._block_size + positions % self._block_size

    def _hide(self, hidden: Tensor) -> Tensor:
        """-inf where `hidden`, else 0; float32."""
        zeros = torch.zeros(hidden.shape, device=self._device)
        return zeros.masked_fill_(hidden, float("-inf"))

    def _column(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, device=self._device).unsqueeze(1)


def _attention(q: Tensor, k: Tensor, v: Tensor, piece: _Piece, params: AttentionParams) -> Tensor:
    """q (batch, heads, queries, head_dim), k and v with keys for queries → the shape of q."""
    if not params.soft_cap:
        mask = None if piece.mask is None else piece.mask.to(q.dtype)
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=piece.is_causal, scale=params.scale
        )
    scores = torch.matmul(q, k.transpose(-1, -2)).float() * (params.scale / params.soft_cap)
    scores = scores.tanh_() * params.soft_cap
    if piece.mask is not None:
        scores += piece.mask
    elif piece.is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu_(1)
        scores.masked_fill_(future, float("-inf"))
    return torch.matmul(torch.softmax(scores, -1).to(v.dtype), v)
