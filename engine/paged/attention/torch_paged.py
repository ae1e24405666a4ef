"""Attention in plain torch: the oracle of the kernels, and the fall-back where none can be had.

Each sequence of a step is computed by itself: its blocks are gathered, and a few of its queries at
a time attend over them. Slots that it has not written are never read, whatever is in them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.paged.attention.base import AttentionBatch, AttentionParams, KvLayer

_INT8_MAX = 127
_QUERIES = 256  # of a chunk that continues a context, per piece: bounds the mask


@dataclass(frozen=True, slots=True)
class _Piece:
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


class TorchPaged:
    """An AttentionBackend for any device.

    Remembers what it made of the step it saw last, so a step needs an AttentionBatch of its own.
    """

    by_head = True

    def __init__(self) -> None:
        self._batch: AttentionBatch | None = None
        self._pieces: dict[tuple[int, int], tuple[_Piece, ...]] = {}

    def store(self, k: Tensor, v: Tensor, cache: KvLayer, slot_mapping: Tensor) -> None:
        size = cache.k.shape[1]
        block, offset = slot_mapping // size, slot_mapping % size
        for values, kept, scales in ((k, cache.k, cache.k_scale), (v, cache.v, cache.v_scale)):
            if scales is None:
                kept[block, offset] = values
            else:
                kept[block, offset], scales[block, offset] = quantize_kv(values)

    def attend(
        self, q: Tensor, cache: KvLayer, batch: AttentionBatch, params: AttentionParams
    ) -> Tensor:
        out = torch.zeros_like(q)
        for piece in self._pieces_of(batch, cache.k.shape[1], params.window):
            out[piece.tokens] = _attend_piece(q[piece.tokens], cache, piece, params)
        return out

    def _pieces_of(self, batch: AttentionBatch, size: int, window: int) -> tuple[_Piece, ...]:
        if batch is not self._batch:
            self._batch, self._pieces = batch, {}
        key = size, window
        if key not in self._pieces:
            self._pieces[key] = tuple(_pieces(batch, size, window))
        return self._pieces[key]


def _pieces(batch: AttentionBatch, size: int, window: int) -> Iterator[_Piece]:
    """One step in pieces, for all layers of one window and block size."""
    starts: list[int] = batch.query_start.tolist()
    for row, context in enumerate(batch.context_lens.tolist()):
        start, queries = starts[row], starts[row + 1] - starts[row]
        if context == 0 or queries == 0:
            continue  # padding
        # A prompt that begins here is one piece: what hides the future needs no mask then.
        is_whole = queries == context and not 0 < window < context
        step = queries if is_whole else _QUERIES
        for begin in range(0, queries, step):
            end = min(begin + step, queries)
            position, last = context - queries + begin, context - queries + end
            first = max(0, position + 1 - window) if window else 0
            at = first // size
            yield _Piece(
                tokens=slice(start + begin, start + end),
                blocks=batch.block_tables[row, at : -(-last // size)].long(),
                skip=first - at * size,
                keys=last - first,
                mask=None
                if is_whole
                else _mask(position, first, last, window, batch.block_tables.device),
            )


def _mask(position: int, first: int, last: int, window: int, device: torch.device) -> Tensor:
    """-inf where the queries from `position` to `last` do not see the keys from `first`, else 0."""
    keys = torch.arange(first, last, device=device)
    asking = torch.arange(position, last, device=device).unsqueeze(1)
    hidden = keys > asking
    if window:
        hidden |= keys <= asking - window
    return torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))


def _attend_piece(q: Tensor, cache: KvLayer, piece: _Piece, params: AttentionParams) -> Tensor:
    """q (queries, num_heads, head_dim) → the same shape."""
    k, v = (
        _dense(kept, scales, piece, q.dtype)
        for kept, scales in ((cache.k, cache.k_scale), (cache.v, cache.v_scale))
    )
    # each key and value head is a batch entry, the heads that share it are its heads
    grouped = q.view(len(q), len(k), -1, q.shape[2]).permute(1, 2, 0, 3)
    shape = (-1, grouped.shape[1], -1, -1)
    k, v = k.unsqueeze(1).expand(shape), v.unsqueeze(1).expand(shape)
    return _attention(grouped, k, v, piece.mask, params).permute(2, 0, 1, 3).reshape(q.shape)


def _dense(kept: Tensor, scales: Tensor | None, piece: _Piece, dtype: torch.dtype) -> Tensor:
    """The piece's part of the cache as numbers, (num_kv_heads, keys, head_dim)."""
    found = kept[piece.blocks].flatten(0, 1)[piece.skip : piece.skip + piece.keys]
    if scales is not None:
        scale = scales[piece.blocks].flatten(0, 1)[piece.skip : piece.skip + piece.keys]
        found = found * scale.unsqueeze(-1).float()
    return found.to(dtype).transpose(0, 1)


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
