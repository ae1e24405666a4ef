"""Projections whose weights stay quantized: W8A16 and W4A16, and the `Linear` made of them.

Decode reads every weight for a handful of tokens, so bytes are time: up to MAX_FUSED_TOKENS the
weights are decoded in registers, tile by tile. Beyond, in prefill, they are decoded once into a
scratch matrix and the vendor's dense multiplication takes over. Sums are in float32; weights are
rounded to the activations' type first, as when they are decoded at load. Pieces of K are summed in
a fixed order, never by atomics: the same batch gives the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from engine.paged.kernels.jit import Ptr, cdiv, constexpr, kernel, loop_bound, next_power_of_2, tl
from engine.paged.weights.planar import PlanarWeight, dequantize_planar

MAX_FUSED_TOKENS = 64
MAX_SPLITS = 16
_PROGRAMS_PER_SM = 4  # loads in flight hide latency; found on paper, to be measured per board


class PlanarLinear:
    """Parts below each other write to slices of one output: q, k and v may differ in type."""

    def __init__(
        self, parts: tuple[PlanarWeight, ...], bias: torch.Tensor | None, num_sms: int = 0
    ) -> None:
        """num_sms: streaming multiprocessors of the weights' device; 0: plain torch computes."""
        self._parts, self._bias, self._num_sms = parts, bias, num_sms
        self._out_features = sum(part.out_features for part in parts)

    @property
    def nbytes(self) -> int:
        bias = 0 if self._bias is None else self._bias.nbytes
        return bias + sum(part.nbytes for part in self._parts)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        out = x.new_empty((x.shape[0], self._out_features))
        first = 0
        for part in self._parts:
            to = out[:, first : first + part.out_features]
            if self._num_sms:
                planar_matmul_triton(x, part, to, self._num_sms)
            else:
                planar_matmul_torch(x, part, to, self._num_sms)
            first += part.out_features
        return out if self._bias is None else out.add_(self._bias)


def planar_matmul_triton(
    x: torch.Tensor, weight: PlanarWeight, out: torch.Tensor, num_sms: int
) -> None:
    """See `planar_matmul_torch`. num_sms decides how far K is cut."""
    num_tokens, size = x.shape[0], weight.out_features
    if num_tokens > MAX_FUSED_TOKENS:
        out.copy_(functional.linear(x, dequantize_triton(weight, x.dtype)))
        return
    gemv = num_tokens == 1
    rows, block_n, block_k = max(next_power_of_2(num_tokens), 16), 32 if gemv else 64, 128
    tiles = cdiv(size, block_n)
    wanted = next_power_of_2(cdiv(_PROGRAMS_PER_SM * num_sms, tiles))
    splits = min(wanted, MAX_SPLITS, cdiv(weight.in_features, 2 * block_k))
    target = out
    if splits > 1:
        target = out.new_empty((splits, num_tokens, size), dtype=torch.float32)
    _matmul[(tiles, splits)](
        target, target.stride(-2), x, x.stride(0), num_tokens, size, *_planes(weight),
        **_layout(weight), gemv=gemv, splits=splits, rows=1 if gemv else rows,
        block_n=block_n, block_k=block_k, num_warps=4, num_stages=3,
    )  # fmt: skip
    if splits > 1:
        out.copy_(target.sum(0))


def dequantize_triton(weight: PlanarWeight, dtype: torch.dtype) -> torch.Tensor:
    """`dequantize_planar`, rounded to `dtype`; a scratch matrix, alive for one multiplication."""
    shape = (weight.out_features, weight.in_features)
    out = torch.empty(shape, dtype=dtype, device=weight.q.device)
    _dequantize[(cdiv(shape[0], 16), cdiv(shape[1], 256))](
        out, shape[0], *_planes(weight), **_layout(weight), block_n=16, block_k=256, num_warps=4
    )
    return out


def _planes(weight: PlanarWeight) -> tuple[torch.Tensor | None, ...]:
    return weight.q, weight.scale, weight.sub_scale, weight.min_scale, weight.sub_min


def _layout(weight: PlanarWeight) -> dict[str, Any]:
    return {
        "in_features": weight.in_features,
        "offset": weight.offset,
        "run": weight.pair or 16,  # int8 is read as two halves too: 16 divides every K and group
        "packed": weight.pair > 0,
        "group": weight.group,
        "span": weight.span,
        "has_sub": weight.sub_scale is not None,
        "has_min": weight.min_scale is not None,
    }


@kernel()
def _scaled(
    q: Ptr, n: Ptr, at: Ptr, mask: Ptr, scale: Ptr, sub_scale: Ptr, min_scale: Ptr, sub_min: Ptr,
    in_features: constexpr, offset: constexpr, group: constexpr, span: constexpr,
    has_sub: constexpr, has_min: constexpr,
) -> Ptr:  # fmt: skip
    """Numbers q (block_n, groups, some of one group) of rows n, groups `at`, in float32."""
    wide = n[:, None] * (in_features // span) + at[None, :] * group // span
    fine = n[:, None] * (in_features // group) + at[None, :]
    factor = tl.load(scale + wide, mask=mask, other=0).to(tl.float32)
    if has_sub:
        factor *= tl.load(sub_scale + fine, mask=mask, other=0).to(tl.float32)
    numbers = factor[:, :, None] * (q.to(tl.float32) - offset)
    if has_min:
        lowest = tl.load(min_scale + wide, mask=mask, other=0).to(tl.float32)
        lowest *= tl.load(sub_min + fine, mask=mask, other=0).to(tl.float32)
        numbers -= lowest[:, :, None]
    return numbers


@kernel()
def _tile(
    q: Ptr, n: Ptr, start: Ptr, size: Ptr, scale: Ptr, sub_scale: Ptr, min_scale: Ptr, sub_min: Ptr,
    in_features: constexpr, offset: constexpr, run: constexpr, packed: constexpr,
    group: constexpr, span: constexpr, has_sub: constexpr, has_min: constexpr, block_k: constexpr,
) -> Ptr:  # fmt: skip
    """Weights of rows n and block_k columns from `start` on, as two halves in float32.

    Each half is (block_n, block_k / 2): the low and the high nibbles if bytes are packed, else the
    runs at even and at odd places. `_columns` says which columns they are.
    """
    runs = start // (2 * run) + tl.arange(0, block_k // (2 * run))
    inside = (n < size)[:, None] & (runs < in_features // (2 * run))[None, :]
    one = tl.arange(0, run)[None, None, :]
    if packed:
        at = n[:, None] * (in_features // 2) + runs[None, :] * run
        both = tl.load(q + at[:, :, None] + one, mask=inside[:, :, None], other=0)
        low, high = both & 15, both >> 4
    else:
        at = n[:, None] * in_features + runs[None, :] * (2 * run)
        low = tl.load(q + at[:, :, None] + one, mask=inside[:, :, None], other=0)
        high = tl.load(q + at[:, :, None] + run + one, mask=inside[:, :, None], other=0)
    low_group = runs * 2 * run // group
    high_group = (runs * 2 + 1) * run // group
    low = _scaled(
        low, n, low_group, inside, scale, sub_scale, min_scale, sub_min,
        in_features, offset, group, span, has_sub, has_min,
    )  # fmt: skip
    high = _scaled(
        high, n, high_group, inside, scale, sub_scale, min_scale, sub_min,
        in_features, offset, group, span, has_sub, has_min,
    )  # fmt: skip
    shape: constexpr = (n.shape[0], block_k // 2)
    return tl.reshape(low, shape), tl.reshape(high, shape)


@kernel()
def _columns(start: Ptr, run: constexpr, block_k: constexpr) -> Ptr:
    """Columns of the low half of `_tile`; the high half's lie one run further."""
    place = tl.arange(0, block_k // 2)
    return start + place // run * (2 * run) + place % run


@kernel("num_tokens")
def _matmul(
    out: Ptr, out_stride: Ptr, x: Ptr, x_stride: Ptr, num_tokens: Ptr, size: Ptr,
    q: Ptr, scale: Ptr, sub_scale: Ptr, min_scale: Ptr, sub_min: Ptr,
    in_features: constexpr, offset: constexpr, run: constexpr, packed: constexpr,
    group: constexpr, span: constexpr, has_sub: constexpr, has_min: constexpr, gemv: constexpr,
    splits: constexpr, rows: constexpr, block_n: constexpr, block_k: constexpr,
) -> None:  # fmt: skip
    """One program: all tokens, block_n outputs, one piece of K."""
    split = tl.program_id(1)
    n = tl.program_id(0).to(tl.int64) * block_n + tl.arange(0, block_n)
    token = tl.arange(0, rows)
    tiles: constexpr = (in_features + block_k - 1) // block_k
    piece: constexpr = (tiles + splits - 1) // splits * block_k
    first = split * piece
    last = tl.minimum(first + piece, in_features)
    if gemv:
        acc = tl.zeros((block_n, block_k // 2), dtype=tl.float32)
    else:
        acc = tl.zeros((rows, block_n), dtype=tl.float32)
    for start in range(loop_bound(first), loop_bound(last), block_k):
        low, high = _tile(
            q, n, start, size, scale, sub_scale, min_scale, sub_min,
            in_features, offset, run, packed, group, span, has_sub, has_min, block_k,
        )  # fmt: skip
        column = _columns(start, run, block_k)
        inside = column < in_features
        if gemv:
            acc += low * tl.load(x + column, mask=inside, other=0).to(tl.float32)[None, :]
            acc += high * tl.load(x + column + run, mask=inside, other=0).to(tl.float32)[None, :]
        else:
            at = x + token[:, None].to(tl.int64) * x_stride + column[None, :]
            mask = (token < num_tokens)[:, None] & inside[None, :]
            kind = x.dtype.element_ty
            acc += tl.dot(
                tl.load(at, mask=mask, other=0), tl.trans(low.to(kind)), input_precision="ieee"
            )
            acc += tl.dot(
                tl.load(at + run, mask=mask, other=0), tl.trans(high.to(kind)),
                input_precision="ieee",
            )  # fmt: skip
    if splits > 1:
        out += split.to(tl.int64) * num_tokens * size
    if gemv:
        tl.store(out + n, tl.sum(acc, 1).to(out.dtype.element_ty), mask=n < size)
    else:
        mask = (token < num_tokens)[:, None] & (n < size)[None, :]
        to = out + token[:, None].to(tl.int64) * out_stride + n[None, :]
        tl.store(to, acc.to(out.dtype.element_ty), mask=mask)


@kernel()
def _dequantize(
    out: Ptr, size: Ptr, q: Ptr, scale: Ptr, sub_scale: Ptr, min_scale: Ptr, sub_min: Ptr,
    in_features: constexpr, offset: constexpr, run: constexpr, packed: constexpr,
    group: constexpr, span: constexpr, has_sub: constexpr, has_min: constexpr,
    block_n: constexpr, block_k: constexpr,
) -> None:  # fmt: skip
    n = tl.program_id(0).to(tl.int64) * block_n + tl.arange(0, block_n)
    start = tl.program_id(1) * block_k
    low, high = _tile(
        q, n, start, size, scale, sub_scale, min_scale, sub_min,
        in_features, offset, run, packed, group, span, has_sub, has_min, block_k,
    )  # fmt: skip
    column = _columns(start, run, block_k)
    mask = (n < size)[:, None] & (column < in_features)[None, :]
    to = out + n[:, None] * in_features + column[None, :]
    tl.store(to, low.to(out.dtype.element_ty), mask=mask)
    tl.store(to + run, high.to(out.dtype.element_ty), mask=mask)


def planar_matmul_torch(
    x: torch.Tensor, weight: PlanarWeight, out: torch.Tensor, num_sms: int
) -> None:
    """out = x @ weight.T; `num_sms` has no effect here.

    x     (num_tokens, in_features)    rows contiguous
    out   (num_tokens, out_features)   rows contiguous, x's dtype; may be a slice of wider rows
    """
    out.copy_(functional.linear(x, dequantize_planar(weight).to(x.dtype)))
