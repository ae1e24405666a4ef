"""Rotate queries and keys, and write keys and values into the cache: in one launch or apart.

Knows how a token's KV reaches its slot, quantized or not. Does not know how angles come from
positions (`layers.py`) nor who chose the slot.
"""

from __future__ import annotations

import torch

from engine.paged.attention.base import KvLayer
from engine.paged.kernels.jit import Ptr, cdiv, constexpr, kernel, next_power_of_2, tl

MAX_STEP = 8  # heads that one program turns or stores


def rotate_triton(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool = False
) -> torch.Tensor:
    """See `rotate_torch`."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, out, cos, sin, interleaved, x[:, :0], x[:, :0], None, None)
    return out


def store_triton(
    k: torch.Tensor, v: torch.Tensor, cache: KvLayer, slot_mapping: torch.Tensor
) -> None:
    """See `store_torch`."""
    _launch(k[:, :0], None, None, None, False, k, v, cache, slot_mapping)


def rope_store_triton(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    cache: KvLayer,
    slot_mapping: torch.Tensor,
    interleaved: bool = False,
) -> torch.Tensor:
    """See `rope_store_torch`."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    _launch(q, out, cos, sin, interleaved, k, v, cache, slot_mapping)
    return out


def _launch(
    q: torch.Tensor,
    out: torch.Tensor | None,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    interleaved: bool,
    k: torch.Tensor,
    v: torch.Tensor,
    cache: KvLayer | None,
    slot_mapping: torch.Tensor | None,
) -> None:
    (num_tokens, num_heads, head_dim), num_kv_heads = q.shape, k.shape[1]
    step = min(next_power_of_2(max(num_heads, num_kv_heads)), MAX_STEP)
    parts = (None,) * 4 if cache is None else (cache.k, cache.v, cache.k_scale, cache.v_scale)
    _rope_store[(num_tokens, cdiv(num_heads, step) + 2 * cdiv(num_kv_heads, step))](
        out, q, q.stride(0), k, k.stride(0), v, v.stride(0), cos, sin, *parts, slot_mapping,
        num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim,
        padded_dim=next_power_of_2(head_dim), half=0 if cos is None else cos.shape[-1],
        interleaved=interleaved, quantized=parts[2] is not None, step=step, num_warps=min(4, step),
    )  # fmt: skip


@kernel()
def _turned(
    x: Ptr, used: Ptr, dims: Ptr, cos: Ptr, sin: Ptr,
    head_dim: constexpr, half: constexpr, interleaved: constexpr,
) -> Ptr:  # fmt: skip
    """A tile of heads at x (step, 1) in float32, with its pairs turned if `half` is not 0."""
    mask = used[:, None] & (dims < head_dim)[None, :]
    tile = tl.load(x + dims[None, :], mask=mask, other=0).to(tl.float32)
    if half > 0:
        if interleaved:
            partner, pair, is_first = dims ^ 1, dims // 2, dims % 2 == 0
        else:
            is_first, pair = dims < half, dims % half
            partner = tl.where(is_first, dims + half, dims - half)
        turning = dims < 2 * half
        other = tl.load(x + partner[None, :], mask=mask & turning[None, :], other=0).to(tl.float32)
        cosine = tl.load(cos + pair, mask=turning, other=1)
        sine = tl.load(sin + pair, mask=turning, other=0)
        tile = tile * cosine[None, :] + other * tl.where(is_first, -sine, sine)[None, :]
    return tile


@kernel()
def _keep(
    tile: Ptr, row: Ptr, used: Ptr, dims: Ptr, cache: Ptr, scales: Ptr,
    head_dim: constexpr, quantized: constexpr,
) -> None:  # fmt: skip
    """Write a tile of heads to rows (step,) of the cache, one scale for each if it is int8."""
    if quantized:
        scale = tl.div_rn(tl.max(tl.abs(tile), 1), 127.0)
        scale = tl.maximum(scale, 6.103515625e-05).to(tl.float16)  # float16's smallest normal
        divisor = scale.to(tl.float32)
        tile = tl.div_rn(tile, tl.broadcast_to(divisor[:, None], tile.shape))
        tile = (tile + 12582912.0) - 12582912.0  # 1.5 * 2^23: rounds half to even, as torch does
        tile = tl.minimum(tl.maximum(tile, -127.0), 127.0)
        tl.store(scales + row, scale, mask=used)
    to = row[:, None] * head_dim + dims[None, :]
    mask = used[:, None] & (dims < head_dim)[None, :]
    tl.store(cache + to, tile.to(cache.dtype.element_ty), mask=mask)


@kernel()
def _rope_store(
    out: Ptr, q: Ptr, q_stride: Ptr, k: Ptr, k_stride: Ptr, v: Ptr, v_stride: Ptr,
    cos: Ptr, sin: Ptr, k_cache: Ptr, v_cache: Ptr, k_scale: Ptr, v_scale: Ptr, slots: Ptr,
    num_heads: constexpr, num_kv_heads: constexpr, head_dim: constexpr, padded_dim: constexpr,
    half: constexpr, interleaved: constexpr, quantized: constexpr, step: constexpr,
) -> None:  # fmt: skip
    """One program: `step` heads of one token; those of q come first, then k's, then v's."""
    token, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    q_parts: constexpr = (num_heads + step - 1) // step
    kv_parts: constexpr = (num_kv_heads + step - 1) // step
    dims = tl.arange(0, padded_dim)
    head = tl.arange(0, step)
    if half > 0:
        cos += token * half
        sin += token * half
    if part < q_parts:
        if num_heads > 0:
            head += part * step
            x = q + token * q_stride + head[:, None] * head_dim
            tile = _turned(x, head < num_heads, dims, cos, sin, head_dim, half, interleaved)
            to = (token * num_heads + head)[:, None] * head_dim + dims[None, :]
            mask = (head < num_heads)[:, None] & (dims < head_dim)[None, :]
            tl.store(out + to, tile.to(out.dtype.element_ty), mask=mask)
    else:
        if num_kv_heads > 0:
            head += (part - q_parts) % kv_parts * step
            slot = tl.load(slots + token)
            used = (head < num_kv_heads) & (slot >= 0)
            row = slot * num_kv_heads + head
            if part < q_parts + kv_parts:
                x = k + token * k_stride + head[:, None] * head_dim
                tile = _turned(x, used, dims, cos, sin, head_dim, half, interleaved)
                tile = tile.to(k.dtype.element_ty).to(tl.float32)
                _keep(tile, row, used, dims, k_cache, k_scale, head_dim, quantized)
            else:
                x = v + token * v_stride + head[:, None] * head_dim
                tile = _turned(x, used, dims, cos, sin, head_dim, 0, interleaved)
                _keep(tile, row, used, dims, v_cache, v_scale, head_dim, quantized)


def rotate_torch(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool = False
) -> torch.Tensor:
    """Turn pairs of the last dimension in float32; what lies beyond them stays.

    x          (num_tokens, heads, head_dim)   heads next to each other
    cos, sin   (num_tokens, 1, half) float32
    Pairs are (i, i + half) as in NeoX, or (2i, 2i + 1) if `interleaved`, as in ggml's NORM.
    """
    half = cos.shape[-1]
    turning, rest = x[..., : 2 * half].float(), x[..., 2 * half :]
    if interleaved:
        first, second = turning[..., ::2], turning[..., 1::2]
        pairs = torch.stack((first * cos - second * sin, second * cos + first * sin), -1)
        turned = pairs.flatten(-2)
    else:
        first, second = turning.split(half, -1)
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    return torch.cat((turned.to(x.dtype), rest), -1)


def store_torch(
    k: torch.Tensor, v: torch.Tensor, cache: KvLayer, slot_mapping: torch.Tensor
) -> None:
    """Scatter k, v (num_tokens, num_kv_heads, head_dim) into the cache; slots below 0 are skipped.

    An int8 cache gets one float16 scale per token and head; the rounded scale divides.
    """
    kept = slot_mapping >= 0
    slots = slot_mapping[kept]
    for new, part, scales in ((k, cache.k, cache.k_scale), (v, cache.v, cache.v_scale)):
        x = new[kept].float()
        if scales is not None:
            smallest = torch.finfo(torch.float16).tiny  # else tiny keys would come back smaller
            scale = (x.abs().amax(-1) / 127).clamp_min(smallest).half()
            scales.view(-1, scales.shape[-1])[slots] = scale
            x = (x / scale.float().unsqueeze(-1)).round().clamp(-127, 127)
        part.view(-1, *part.shape[2:])[slots] = x.to(part.dtype)


def rope_store_torch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    cache: KvLayer,
    slot_mapping: torch.Tensor,
    interleaved: bool = False,
) -> torch.Tensor:
    """Store the rotated keys and the values, return the rotated queries."""
    store_torch(rotate_torch(k, cos, sin, interleaved), v, cache, slot_mapping)
    return rotate_torch(q, cos, sin, interleaved)
