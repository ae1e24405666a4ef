"""Launches of every paged kernel on tensors of the meta device: shapes of real models, no memory.

Under `compile_only` each launch compiles what a GPU would run for the shape.
"""

import torch

from engine.gguf.types import GGMLType
from engine.paged.attention.base import AttentionBatch, AttentionParams, KvLayer
from engine.paged.kernels import attention, planar_linear, sample
from engine.paged.kernels.ops import TritonOps
from engine.paged.kernels.store import store_triton
from engine.paged.weights.planar import PLANAR_TYPES, PlanarWeight

EVERY_HEAD = (64, 80, 96, 128, 256)
NUM_SMS = 16  # an Orin's; the more there are, the more pieces, but the kernels stay the same


def _meta(*shape, dtype):
    return torch.empty(shape, dtype=dtype, device="meta")


def launch_attention(dtype, head_dim, quantized=False, group=4):
    """A mixed step, then decode in one piece and in eight with their merge."""
    cache = _cache(dtype, head_dim, quantized)
    windowed = AttentionParams(head_dim**-0.5, window=512, soft_cap=50.0)
    params = windowed if head_dim == 256 else AttentionParams(head_dim**-0.5)  # gemma's heads
    for num_tokens, longest, splits in ((300, 100, 1), (4, 1, 1), (4, 1, 8)):
        batch = AttentionBatch(
            _meta(5, dtype=torch.int32),
            _meta(4, dtype=torch.int32),
            _meta(4, 128, dtype=torch.int32),
            _meta(num_tokens, dtype=torch.int64),
            longest,
            4096,
        )
        q = _meta(num_tokens, 8 * group, head_dim, dtype=dtype)
        attention.attend_triton(q, cache, batch, params, splits)


def launch_store(dtype, head_dim=128, quantized=False):
    k, v = (_meta(7, 8, head_dim, dtype=dtype) for _ in "kv")
    store_triton(k, v, _cache(dtype, head_dim, quantized), _meta(7, dtype=torch.int64))


def launch_ops(dtype, size=4096, head_dim=128):
    ops, x, weight = TritonOps(), _meta(7, size, dtype=dtype), _meta(size, dtype=dtype)
    ops.rms_norm(x, weight, 1e-6)
    ops.add_rms_norm(x, x, weight, 1e-6)
    for activation in ("silu", "gelu_tanh"):
        ops.gated(_meta(7, 2 * size, dtype=dtype), activation)
    angles = [_meta(7, 1, head_dim // 2, dtype=torch.float32) for _ in range(2)]
    ops.rotate(_meta(7, 40, head_dim, dtype=dtype), *angles)


def launch_sampling(vocab_size=151936):
    logits = _meta(7, vocab_size, dtype=torch.float32)
    heat, seeds = _meta(7, dtype=torch.float32), _meta(7, dtype=torch.int64)
    sample.sample_triton(logits, heat, seeds, seeds)
    ids = _meta(7, 1024, dtype=torch.int64)
    sample.sample_triton(logits[:, :1024], heat, seeds, seeds, ids)


def launch_projection(dtype, kind, in_features=4096, out_features=14336):
    """One token, a small batch and the largest that is not decoded first, then the decoding."""
    weight = _planar(kind, in_features, out_features)
    for num_tokens in (1, 8, planar_linear.MAX_FUSED_TOKENS):
        x = _meta(num_tokens, in_features, dtype=dtype)
        out = _meta(num_tokens, out_features, dtype=dtype)
        planar_linear.planar_matmul_triton(x, weight, out, NUM_SMS)
    planar_linear.dequantize_triton(weight, dtype)


def launch_all(dtype):
    """Everything there is; some sixty compilations."""
    for head_dim in EVERY_HEAD:
        launch_attention(dtype, head_dim)
        launch_attention(dtype, head_dim, quantized=True, group=7)
        launch_store(dtype, head_dim)
        launch_store(dtype, head_dim, quantized=True)
        launch_ops(dtype, 896, head_dim)
    launch_ops(dtype)
    launch_sampling()
    for kind in PLANAR_TYPES:
        launch_projection(dtype, kind)


def _cache(dtype, head_dim, quantized):
    shape = (100, 32, 8, head_dim)
    if not quantized:
        return KvLayer(_meta(*shape, dtype=dtype), _meta(*shape, dtype=dtype))
    parts = [_meta(*shape, dtype=torch.int8) for _ in "kv"]
    return KvLayer(*parts, *(_meta(*shape[:3], dtype=torch.float16) for _ in "kv"))


def _planar(kind, k, n):
    """The planes of a matrix (n, k) as `repack` makes them."""
    half, byte = torch.float16, torch.uint8
    if kind == GGMLType.Q8_0:
        return PlanarWeight(_meta(n, k, dtype=torch.int8), _meta(n, k // 32, dtype=half))
    packed, scale = _meta(n, k // 2, dtype=byte), _meta(n, k // 256, dtype=half)
    if kind == GGMLType.Q4_0:
        return PlanarWeight(packed, _meta(n, k // 32, dtype=half), offset=8, pair=16)
    if kind == GGMLType.Q4_K:
        fine = _meta(n, k // 32, dtype=byte)
        return PlanarWeight(packed, scale, fine, scale, fine, pair=32, span=256)
    fine = _meta(n, k // 16, dtype=torch.int8)
    return PlanarWeight(_meta(n, k, dtype=torch.int8), scale, fine, group=16, span=256)
