"""What works on one row after the other: norms, gated activations, token masks.

Each kernel reads and writes every number once; the twins state what is computed, in float32.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

from engine.paged.kernels.jit import Ptr, cdiv, constexpr, kernel, next_power_of_2, tl

Activation = Literal["silu", "gelu_tanh"]
_BLOCK = 1024


def rms_norm_triton(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """See `rms_norm_torch`."""
    return _norm(x, None, weight, eps)[0]


def add_rms_norm_triton(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `add_rms_norm_torch`."""
    return _norm(x, residual, weight, eps)


def _norm(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x (…, size) has rows in at most two regular dimensions, such as heads of fused q, k, v."""
    size = x.shape[-1]
    inner = x.shape[-2] if x.dim() == 3 else 1
    outer_stride, inner_stride = x.stride(0), x.stride(-2) if x.dim() == 3 else 0
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = out if residual is None else torch.empty_like(out)
    block = next_power_of_2(size)
    _rms_norm[(out.numel() // size,)](
        out, total, x, outer_stride, inner_stride, residual, weight,
        inner=inner, size=size, block=block, eps=eps, has_residual=residual is not None,
        num_warps=min(max(block // 512, 1), 8),
    )  # fmt: skip
    return out, total


@kernel()
def _rms_norm(
    out: Ptr, total: Ptr, x: Ptr, outer_stride: Ptr, inner_stride: Ptr, residual: Ptr, weight: Ptr,
    inner: constexpr, size: constexpr, block: constexpr, eps: constexpr, has_residual: constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    mask = at < size
    start = row // inner * outer_stride + row % inner * inner_stride
    value = tl.load(x + start + at, mask=mask, other=0).to(tl.float32)
    if has_residual:
        value += tl.load(residual + row * size + at, mask=mask, other=0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + row * size + at, rounded, mask=mask)
        value = rounded.to(tl.float32)
    shrink = tl.rsqrt(tl.sum(value * value, 0) / size + eps)
    scaled = value * shrink * tl.load(weight + at, mask=mask, other=0).to(tl.float32)
    tl.store(out + row * size + at, scaled.to(out.dtype.element_ty), mask=mask)


def gated_triton(gate_up: torch.Tensor, activation: Activation) -> torch.Tensor:
    """See `gated_torch`."""
    num_tokens, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((num_tokens, size), dtype=gate_up.dtype, device=gate_up.device)
    _gated[(num_tokens, cdiv(size, _BLOCK))](
        out, gate_up, size=size, block=_BLOCK, gelu=activation == "gelu_tanh", num_warps=4
    )
    return out


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


def apply_token_mask_triton(logits: torch.Tensor, mask: torch.Tensor, rows: torch.Tensor) -> None:
    """See `apply_token_mask_torch`."""
    vocab_size = logits.shape[1]
    _apply_token_mask[(mask.shape[0], cdiv(vocab_size, _BLOCK))](
        logits, logits.stride(0), mask, mask.stride(0), rows,
        vocab_size=vocab_size, block=_BLOCK, num_warps=4,
    )  # fmt: skip


@kernel()
def _apply_token_mask(
    logits: Ptr, logits_stride: Ptr, mask: Ptr, mask_stride: Ptr, rows: Ptr,
    vocab_size: constexpr, block: constexpr,
) -> None:  # fmt: skip
    index = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + index).to(tl.int64)
    if row < 0:
        return
    token = tl.program_id(1) * block + tl.arange(0, block)
    inside = token < vocab_size
    words = tl.load(mask + index * mask_stride + token // 32, mask=inside, other=-1)
    banned = inside & ((words >> (token % 32) & 1) == 0)
    tl.store(logits + row * logits_stride + token, float("-inf"), mask=banned)


def rms_norm_torch(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Divide the last dimension of x (…, size) by its root mean square; weight (size,)."""
    value = x.float()
    shrink = torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + eps)
    return (value * shrink * weight.float()).to(x.dtype)


def add_rms_norm_torch(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rms_norm(x + residual), x + residual), the sum rounded to x's dtype first; both new."""
    total = x + residual
    return rms_norm_torch(total, weight, eps), total


def gated_torch(gate_up: torch.Tensor, activation: Activation) -> torch.Tensor:
    """gate_up (num_tokens, 2 * size) → activation(gate) * up (num_tokens, size), rounded once."""
    gate, up = gate_up.float().chunk(2, -1)
    acted = (
        functional.silu(gate) if activation == "silu" else functional.gelu(gate, approximate="tanh")
    )
    return (acted * up).to(gate_up.dtype)


def apply_token_mask_torch(logits: torch.Tensor, mask: torch.Tensor, rows: torch.Tensor) -> None:
    """Ban tokens in place: logits become -inf where the bit is 0.

    logits   (num_rows, vocab_size)
    mask     (num_masks, ceil(vocab_size / 32)) int32; bit t % 32 of word t // 32 allows token t
    rows     (num_masks,) int32: the row of `logits` that each mask is for; below 0: none
    """
    token = torch.arange(logits.shape[1], device=logits.device)
    allowed = (mask[:, token // 32] >> (token % 32) & 1).bool()
    kept = rows >= 0
    at = rows[kept].long()
    logits[at] = logits[at].masked_fill(~allowed[kept], float("-inf"))
