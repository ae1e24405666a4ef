"""Norms, rotation and gated activations as kernels; the twin of `TritonOps` is `layers.TorchOps`.

One launch for each operation. Everything is computed in float32 and rounded once, where plain torch
rounds after each of its steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.paged.kernels.jit import Ptr, cdiv, constexpr, kernel, next_power_of_2, tl

if TYPE_CHECKING:
    from engine.paged.arch import Activation

_BLOCK = 1024
_HEADS = 8  # that one program turns


@dataclass(frozen=True, slots=True)
class TritonOps:
    """The `Ops` of a GPU."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return _norm(x, None, weight, eps)[0]

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        return _norm(x, residual, weight, eps)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        num_tokens, num_heads, head_dim = x.shape
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        step = min(next_power_of_2(num_heads), _HEADS)
        _rotate[(num_tokens, cdiv(num_heads, step))](
            out, x, x.stride(0), cos, sin, num_heads=num_heads, head_dim=head_dim, step=step,
            half=cos.shape[-1], padded_dim=next_power_of_2(head_dim), num_warps=min(4, step),
        )  # fmt: skip
        return out

    def gated(self, gate_up: Tensor, activation: Activation) -> Tensor:
        num_tokens, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty((num_tokens, size), dtype=gate_up.dtype, device=gate_up.device)
        _gated[(num_tokens, cdiv(size, _BLOCK))](
            out, gate_up, size=size, block=_BLOCK, gelu=activation == "gelu_tanh", num_warps=4
        )
        return out


def _norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x is (rows, size), or (num_tokens, heads, size) cut out of a wider matrix."""
    size = x.shape[-1]
    inner, inner_stride = (x.shape[1], x.stride(1)) if x.dim() == 3 else (1, 0)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = out if residual is None else torch.empty_like(out)
    block = next_power_of_2(size)
    _rms_norm[(out.numel() // size,)](
        out, total, x, x.stride(0), inner_stride, residual, weight, inner=inner, size=size,
        block=block, eps=eps, adds=residual is not None, num_warps=min(max(block // 512, 1), 8),
    )  # fmt: skip
    return out, total


@kernel()
def _rms_norm(
    out: Ptr, total: Ptr, x: Ptr, outer_stride: Ptr, inner_stride: Ptr, residual: Ptr, weight: Ptr,
    inner: constexpr, size: constexpr, block: constexpr, eps: constexpr, adds: constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    mask = at < size
    start = row // inner * outer_stride + row % inner * inner_stride
    value = tl.load(x + start + at, mask=mask, other=0).to(tl.float32)
    if adds:
        value += tl.load(residual + row * size + at, mask=mask, other=0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + row * size + at, rounded, mask=mask)
        value = rounded.to(tl.float32)
    shrink = tl.rsqrt(tl.sum(value * value, 0) / size + eps)
    scaled = value * shrink * tl.load(weight + at, mask=mask, other=0).to(tl.float32)
    tl.store(out + row * size + at, scaled.to(out.dtype.element_ty), mask=mask)


@kernel()
def _rotate(
    out: Ptr, x: Ptr, x_stride: Ptr, cos: Ptr, sin: Ptr, num_heads: constexpr, head_dim: constexpr,
    step: constexpr, half: constexpr, padded_dim: constexpr,
) -> None:  # fmt: skip
    """One program: `step` heads of one token."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * step + tl.arange(0, step)
    dims = tl.arange(0, padded_dim)
    mask = (head < num_heads)[:, None] & (dims < head_dim)[None, :]
    turning = dims < 2 * half
    is_first, pair = dims < half, dims % half
    partner = tl.where(is_first, dims + half, dims - half)
    heads = x + token * x_stride + head[:, None] * head_dim
    tile = tl.load(heads + dims[None, :], mask=mask, other=0).to(tl.float32)
    other = tl.load(heads + partner[None, :], mask=mask & turning[None, :], other=0).to(tl.float32)
    cosine = tl.load(cos + token * half + pair, mask=turning, other=1)
    sine = tl.load(sin + token * half + pair, mask=turning, other=0)
    tile = tile * cosine[None, :] + other * tl.where(is_first, -sine, sine)[None, :]
    to = out + (token * num_heads + head)[:, None] * head_dim + dims[None, :]
    tl.store(to, tile.to(out.dtype.element_ty), mask=mask)


@kernel()
def _gated(out: Ptr, gate_up: Ptr, size: constexpr, block: constexpr, gelu: constexpr) -> None:
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * block + tl.arange(0, block)
    mask = at < size
    gate = tl.load(gate_up + row * 2 * size + at, mask=mask, other=0).to(tl.float32)
    up = tl.load(gate_up + (row * 2 + 1) * size + at, mask=mask, other=0).to(tl.float32)
    if gelu:  # 0.5 * (1 + tanh(y)) is sigmoid(2 * y)
        gate *= tl.sigmoid(1.5957691216057308 * gate * (1 + 0.044715 * gate * gate))
    else:
        gate *= tl.sigmoid(gate)
    tl.store(out + row * size + at, (gate * up).to(out.dtype.element_ty), mask=mask)
