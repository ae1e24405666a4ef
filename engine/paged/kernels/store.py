"""Write this step's keys and values into the cache; the twin is `TorchPaged.store`.

An int8 cache gets one float16 scale per token and head, chosen as `quantize_kv` chooses it.
"""

from __future__ import annotations

import torch

from engine.paged.attention.base import KvLayer
from engine.paged.kernels.jit import Ptr, constexpr, kernel, next_power_of_2, tl


def store_triton(
    k: torch.Tensor, v: torch.Tensor, cache: KvLayer, slot_mapping: torch.Tensor
) -> None:
    """k, v (num_tokens, num_kv_heads, head_dim), heads next to each other; see AttentionBackend."""
    num_tokens, num_kv_heads, head_dim = k.shape
    _store[(num_tokens, 2)](
        k, k.stride(0), v, v.stride(0), cache.k, cache.v, cache.k_scale, cache.v_scale,
        slot_mapping, num_kv_heads=num_kv_heads, head_dim=head_dim,
        padded_heads=next_power_of_2(num_kv_heads), padded_dim=next_power_of_2(head_dim),
        quantized=cache.k_scale is not None, num_warps=4,
    )  # fmt: skip


@kernel()
def _store(
    k: Ptr, k_stride: Ptr, v: Ptr, v_stride: Ptr, k_cache: Ptr, v_cache: Ptr, k_scale: Ptr,
    v_scale: Ptr, slots: Ptr, num_kv_heads: constexpr, head_dim: constexpr,
    padded_heads: constexpr, padded_dim: constexpr, quantized: constexpr,
) -> None:  # fmt: skip
    """One program: all heads of one token's key, or of its value."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, padded_heads)
    row = tl.load(slots + token) * num_kv_heads + head
    if tl.program_id(1) == 0:
        _keep(
            k + token * k_stride, head, row, k_cache, k_scale,
            num_kv_heads, head_dim, padded_dim, quantized,
        )  # fmt: skip
    else:
        _keep(
            v + token * v_stride, head, row, v_cache, v_scale,
            num_kv_heads, head_dim, padded_dim, quantized,
        )  # fmt: skip


@kernel()
def _keep(
    x: Ptr, head: Ptr, row: Ptr, cache: Ptr, scales: Ptr, num_kv_heads: constexpr,
    head_dim: constexpr, padded_dim: constexpr, quantized: constexpr,
) -> None:  # fmt: skip
    """Heads at x to rows of the cache."""
    dims = tl.arange(0, padded_dim)
    mask = (head < num_kv_heads)[:, None] & (dims < head_dim)[None, :]
    tile = tl.load(x + head[:, None] * head_dim + dims[None, :], mask=mask, other=0)
    if quantized:
        tile = tile.to(tl.float32)
        smallest = 6.103515625e-05  # of float16's normal numbers
        scale = tl.maximum(tl.div_rn(tl.max(tl.abs(tile), 1), 127.0), smallest).to(tl.float16)
        tile = tl.div_rn(tile, tl.broadcast_to(scale.to(tl.float32)[:, None], tile.shape))
        tile = (tile + 12582912.0) - 12582912.0  # 1.5 * 2^23: rounds half to even, as torch does
        tile = tl.minimum(tl.maximum(tile, -127.0), 127.0)
        tl.store(scales + row, scale, mask=head < num_kv_heads)
    to = cache + row[:, None] * head_dim + dims[None, :]
    tl.store(to, tile.to(cache.dtype.element_ty), mask=mask)
