"""Paged attention: ragged prefill and mixed steps, split-KV decode with merge.

Knows how queries meet the blocks of their sequence; the twin is `TorchPaged.attend`. Does not know
who owns the blocks or how KV got there. Query heads that share a KV head are rows of one tile, so
each K/V tile is read once for all of them; `context_lens` and `block_tables` are read on the
device, so a captured graph stays valid.

Both grids and all loop bounds come from shapes: decode is (num_seqs, num_kv_heads, num_splits).
Softmax runs in base 2. Head sizes that are no power of two are padded in registers, not in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.paged.attention.base import AttentionBatch, AttentionParams, KvLayer
from engine.paged.kernels.jit import Ptr, cdiv, constexpr, kernel, loop_bound, next_power_of_2, tl

LOG2_E = 1.4426950408889634
MAX_SPLITS = 32  # more make the merge longer than what they save


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a kernel is cut: query rows and KV tokens per tile, warps, pipeline stages."""

    rows: int
    tokens: int
    warps: int
    stages: int


def prefill_tiling(head_dim: int, group: int, itemsize: int) -> Tiling:
    """Fits 99 KB of shared memory, what sm_86, sm_89 and sm_120 give one block."""
    rows = max(next_power_of_2(group), 64 if head_dim <= 128 and itemsize == 2 else 32)
    tokens = 64 if head_dim <= 64 or (head_dim <= 128 and itemsize == 2) else 32
    return Tiling(rows, tokens, 4, 2 if itemsize == 2 else 1)


def decode_tiling(head_dim: int, group: int, itemsize: int) -> Tiling:
    """Tall in KV tokens: decode lives by the loads in flight."""
    tokens = 64 if head_dim * itemsize <= 256 else 32
    return Tiling(max(next_power_of_2(group), 16), tokens, 4, 3 if itemsize == 2 else 1)


def choose_splits(num_seqs: int, num_kv_heads: int, num_sms: int) -> int:
    """Pieces of each context in decode; a function of the padded batch only, for CUDA graphs."""
    wanted = cdiv(2 * num_sms, num_seqs * num_kv_heads)
    return min(next_power_of_2(wanted), MAX_SPLITS)


def attend_triton(
    q: torch.Tensor,
    cache: KvLayer,
    batch: AttentionBatch,
    params: AttentionParams,
    num_splits: int = 1,
) -> torch.Tensor:
    """Launch what the step needs; q's heads lie next to each other. See AttentionBackend.

    `num_splits` cuts the contexts of a decode step. Rows of padding sequences become zeros there;
    a step with prefill has none.
    """
    num_tokens, num_heads, head_dim = q.shape
    num_seqs, num_kv_heads = batch.context_lens.shape[0], cache.k.shape[2]
    group = num_heads // num_kv_heads
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    where = (
        batch.query_start,
        batch.context_lens,
        batch.block_tables,
        batch.block_tables.stride(0),
    )
    common = {
        "scale": params.scale, "window": params.window, "soft_cap": params.soft_cap,
        "num_kv_heads": num_kv_heads, "group": group, "head_dim": head_dim,
        "block_size": cache.k.shape[1], "quantized": cache.k_scale is not None,
        "padded_dim": max(next_power_of_2(head_dim), 16),
    }  # fmt: skip
    kv = (cache.k, cache.v, cache.k_scale, cache.v_scale)
    if batch.max_query_len > 1:
        cut = prefill_tiling(head_dim, group, q.element_size())
        q_tokens = cut.rows // group
        grid = (num_tokens // q_tokens + num_seqs, num_kv_heads)
        _prefill[grid](
            out, q, q.stride(0), *kv, *where, num_seqs, **common,
            rows=cut.rows, tile=cut.tokens, num_warps=cut.warps, num_stages=cut.stages,
        )  # fmt: skip
        return out
    cut = decode_tiling(head_dim, group, q.element_size())
    partial, lse = out, out
    if num_splits > 1:
        partial = q.new_empty((num_seqs, num_heads, num_splits, head_dim), dtype=torch.float32)
        lse = q.new_empty((num_seqs, num_heads, num_splits), dtype=torch.float32)
    _decode[(num_seqs, num_kv_heads, num_splits)](
        partial, lse, q, q.stride(0), *kv, *where, **common, num_splits=num_splits,
        rows=cut.rows, tile=cut.tokens, num_warps=cut.warps, num_stages=cut.stages,
    )  # fmt: skip
    if num_splits > 1:
        _merge[(num_seqs, num_heads)](
            out, partial, lse, batch.query_start, batch.context_lens,
            num_heads=num_heads, head_dim=head_dim, num_splits=num_splits,
            padded_dim=common["padded_dim"], num_warps=1,
        )  # fmt: skip
    return out


@kernel()
def _attend_tiles(
    q: Ptr, positions: Ptr, first: Ptr, last: Ptr,  # rows' queries; KV tokens [first, last) to see
    k: Ptr, v: Ptr, k_scale: Ptr, v_scale: Ptr, table: Ptr, kv_head: Ptr,
    scale: constexpr, window: constexpr, soft_cap: constexpr,
    num_kv_heads: constexpr, head_dim: constexpr, block_size: constexpr, quantized: constexpr,
    padded_dim: constexpr, rows: constexpr, tile: constexpr,
) -> Ptr:  # fmt: skip
    """Online softmax of a tile of rows over a range of KV tokens: (acc, maximum, sum)."""
    dims = tl.arange(0, padded_dim)
    in_head = dims < head_dim
    acc = tl.zeros((rows, padded_dim), dtype=tl.float32)
    top = tl.full((rows,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((rows,), dtype=tl.float32)
    for start in range(loop_bound(first), loop_bound(last), tile):
        tokens = start + tl.arange(0, tile)
        seen = tokens < last
        block = tl.load(table + tokens // block_size, mask=seen, other=0).to(tl.int64)
        slot_head = (block * block_size + tokens % block_size) * num_kv_heads + kv_head
        # Masked tokens load zeros: what a free block holds may be NaN, and 0 * NaN is NaN.
        k_tile = tl.load(
            k + slot_head[None, :] * head_dim + dims[:, None],
            mask=seen[None, :] & in_head[:, None], other=0,
        ).to(q.dtype)  # fmt: skip
        scores = tl.dot(q, k_tile, input_precision="ieee")
        if quantized:
            scores *= tl.load(k_scale + slot_head, mask=seen, other=0).to(tl.float32)[None, :]
        if soft_cap > 0:
            scores = (2 * tl.sigmoid(scores * (2 * scale / soft_cap)) - 1) * (
                soft_cap * 1.4426950408889634
            )
        else:
            scores *= scale * 1.4426950408889634
        visible = seen[None, :] & (tokens[None, :] <= positions[:, None])
        if window > 0:
            visible &= tokens[None, :] > positions[:, None] - window
        scores = tl.where(visible, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        # A row that has seen nothing yet has no maximum: -inf - -inf is NaN.
        pivot = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(scores - pivot[:, None])
        shrink = tl.exp2(top - pivot)
        total = total * shrink + tl.sum(weights, 1)
        v_tile = tl.load(
            v + slot_head[:, None] * head_dim + dims[None, :],
            mask=seen[:, None] & in_head[None, :], other=0,
        ).to(q.dtype)  # fmt: skip
        if quantized:
            weights *= tl.load(v_scale + slot_head, mask=seen, other=0).to(tl.float32)[None, :]
        acc = acc * shrink[:, None] + tl.dot(weights.to(q.dtype), v_tile, input_precision="ieee")
        top = new_top
    return acc, top, total


@kernel("num_seqs")
def _prefill(
    out: Ptr, q: Ptr, q_stride: Ptr, k: Ptr, v: Ptr, k_scale: Ptr, v_scale: Ptr,
    query_start: Ptr, context_lens: Ptr, tables: Ptr, table_stride: Ptr, num_seqs: Ptr,
    scale: constexpr, window: constexpr, soft_cap: constexpr,
    num_kv_heads: constexpr, group: constexpr, head_dim: constexpr, block_size: constexpr,
    quantized: constexpr, padded_dim: constexpr, rows: constexpr, tile: constexpr,
) -> None:  # fmt: skip
    """One program: up to rows // group queries of one sequence, all heads of one KV head."""
    q_tokens: constexpr = rows // group
    index, kv_head = tl.program_id(0), tl.program_id(1)
    # Sequence i owns the tiles from query_start[i] // q_tokens + i on; the last few own none.
    low, high = 0, num_seqs
    while low < high:
        middle = (low + high) // 2
        if tl.load(query_start + middle) // q_tokens + middle <= index:
            low = middle + 1
        else:
            high = middle
    seq = low - 1
    begin = tl.load(query_start + seq)
    query_len = tl.load(query_start + seq + 1) - begin
    offset = (index - begin // q_tokens - seq) * q_tokens
    context = tl.load(context_lens + seq)
    if (offset >= query_len) | (context == 0):
        return

    row = tl.arange(0, rows)
    token = offset + row // group
    dims = tl.arange(0, padded_dim)
    head = kv_head * group + row % group
    used = (token < query_len) & (row < q_tokens * group)
    mask = used[:, None] & (dims < head_dim)[None, :]
    at = (begin + token).to(tl.int64)
    q_tile = tl.load(
        q + at[:, None] * q_stride + head[:, None] * head_dim + dims[None, :], mask=mask, other=0
    )
    positions = context - query_len + token
    last = tl.minimum(context, context - query_len + offset + q_tokens)
    first = 0
    if window > 0:
        first = tl.maximum(context - query_len + offset - window + 1, 0) // tile * tile
    acc, _, total = _attend_tiles(
        q_tile, positions, first, last, k, v, k_scale, v_scale,
        tables + tl.cast(seq, tl.int64) * table_stride, kv_head, scale, window, soft_cap,
        num_kv_heads, head_dim, block_size, quantized, padded_dim, rows, tile,
    )  # fmt: skip
    acc /= tl.where(total > 0, total, 1.0)[:, None]
    to = (at * num_kv_heads * group + head)[:, None] * head_dim + dims[None, :]
    tl.store(out + to, acc.to(out.dtype.element_ty), mask=mask)


@kernel()
def _decode(
    out: Ptr, lse: Ptr, q: Ptr, q_stride: Ptr, k: Ptr, v: Ptr, k_scale: Ptr, v_scale: Ptr,
    query_start: Ptr, context_lens: Ptr, tables: Ptr, table_stride: Ptr,
    scale: constexpr, window: constexpr, soft_cap: constexpr,
    num_kv_heads: constexpr, group: constexpr, head_dim: constexpr, block_size: constexpr,
    quantized: constexpr, padded_dim: constexpr, num_splits: constexpr, rows: constexpr,
    tile: constexpr,
) -> None:  # fmt: skip
    """One program: one sequence's token, the heads of one KV head, one piece of the context."""
    seq, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    context = tl.load(context_lens + seq)
    begin = 0
    if window > 0:
        begin = tl.maximum(context - window, 0)
    piece = tl.cdiv(tl.cdiv(context - begin, num_splits), tile) * tile
    first = begin + split * piece
    last = tl.minimum(first + piece, context)

    row = tl.arange(0, rows)
    dims = tl.arange(0, padded_dim)
    head = kv_head * group + row
    mask = (row < group)[:, None] & (dims < head_dim)[None, :]
    at = tl.load(query_start + seq).to(tl.int64)
    q_tile = tl.load(
        q + at * q_stride + head[:, None] * head_dim + dims[None, :], mask=mask, other=0
    )
    positions = tl.zeros((rows,), dtype=tl.int32) + context - 1
    acc, top, total = _attend_tiles(
        q_tile, positions, first, last, k, v, k_scale, v_scale,
        tables + seq.to(tl.int64) * table_stride, kv_head, scale, window, soft_cap,
        num_kv_heads, head_dim, block_size, quantized, padded_dim, rows, tile,
    )  # fmt: skip
    total = tl.where(total > 0, total, 1.0)  # a piece may lie beyond the context
    acc /= total[:, None]
    num_heads: constexpr = num_kv_heads * group
    if num_splits == 1:
        to = (at * num_heads + head)[:, None] * head_dim + dims[None, :]
        tl.store(out + to, acc.to(out.dtype.element_ty), mask=mask)
    else:
        part = (seq.to(tl.int64) * num_heads + head) * num_splits + split
        tl.store(out + part[:, None] * head_dim + dims[None, :], acc, mask=mask)
        tl.store(lse + part, top + tl.log2(total), mask=row < group)  # -inf: saw none


@kernel()
def _merge(
    out: Ptr, partial: Ptr, lse: Ptr, query_start: Ptr, context_lens: Ptr,
    num_heads: constexpr, head_dim: constexpr, num_splits: constexpr, padded_dim: constexpr,
) -> None:  # fmt: skip
    """One program: one head of one sequence; pieces weigh by the sum of their exponentials."""
    seq, head = tl.program_id(0), tl.program_id(1)
    splits = tl.arange(0, num_splits)
    dims = tl.arange(0, padded_dim)
    in_head = dims < head_dim
    part = (seq.to(tl.int64) * num_heads + head) * num_splits + splits
    sums = tl.load(lse + part)
    if tl.load(context_lens + seq) == 0:  # padding: all are -inf, and -inf - -inf is NaN
        sums = tl.zeros_like(sums)
    weights = tl.exp2(sums - tl.max(sums, 0))
    pieces = tl.load(
        partial + part[:, None] * head_dim + dims[None, :], mask=in_head[None, :], other=0
    )
    merged = tl.sum(pieces * weights[:, None], 0) / tl.sum(weights, 0)
    at = tl.load(query_start + seq).to(tl.int64)
    to = (at * num_heads + head) * head_dim + dims
    tl.store(out + to, merged.to(out.dtype.element_ty), mask=in_head)
