"""Projections, small operations and attention by the compiled loops of `cpu.cpp`.

Each has a torch twin with the same contract: `layers.DenseLinear`, `layers.TorchOps`, `TorchPaged`.
Here shapes are turned into pointers and strides; everything is float32 on the CPU, but weights,
which may stay in the half precision they are stored in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.paged.attention.base import AttentionBatch, AttentionParams, KvLayer
from engine.paged.attention.torch_paged import TorchPaged

if TYPE_CHECKING:
    from engine.paged.arch import Activation
    from engine.paged.native.library import Library

_KINDS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
NATIVE_TYPES = tuple(_KINDS)


class NativeLinear:
    """weight (out_features, in_features) of NATIVE_TYPES, bias (out_features,) or None.

    Kept as panels of `panel` columns, (panels, in_features, panel), the last one filled up.
    """

    def __init__(self, library: Library, weight: Tensor, bias: Tensor | None) -> None:
        self._project, self._kind = library.project, _KINDS[weight.dtype]
        self._columns, self._depth = weight.shape
        panels = -(-self._columns // library.panel)
        packed = weight.new_zeros((panels, self._depth, library.panel))
        for panel, part in enumerate(weight.split(library.panel)):
            packed[panel, :, : len(part)] = part.T
        self._packed, self._bias = packed, None if bias is None else bias.float().contiguous()
        self.nbytes = packed.nbytes + (0 if bias is None else bias.nbytes)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        out = torch.empty((len(x), self._columns))
        self._project(
            self._kind, out.data_ptr(), x.data_ptr(), self._packed.data_ptr(), _at(self._bias),
            len(x), self._depth, self._columns,
        )  # fmt: skip
        return out


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class NativeOps:
    """The `Ops` of the CPU."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return self._norm(x, None, weight, eps)[0]

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        return self._norm(x, residual.contiguous(), weight, eps)

    def _norm(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """x is (rows, size), or (num_tokens, heads, size) cut out of a wider matrix."""
        if x.stride(-1) != 1:
            x = x.contiguous()
        size = x.shape[-1]
        inner, inner_stride = (x.shape[1], x.stride(1)) if x.dim() == 3 else (1, 0)
        out = torch.empty(x.shape)
        total = out if residual is None else torch.empty(x.shape)
        self._library.norm(
            out.data_ptr(), total.data_ptr(), x.data_ptr(), _at(residual), weight.data_ptr(),
            out.numel() // size, inner, x.stride(0), inner_stride, size, eps,
        )  # fmt: skip
        return out, total

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = _by_token(x)
        num_tokens, num_heads, head_dim = x.shape
        out = torch.empty(x.shape)
        self._library.rotate(
            out.data_ptr(), x.data_ptr(), cos.data_ptr(), sin.data_ptr(),
            num_tokens, x.stride(0), num_heads, head_dim, cos.shape[-1],
        )  # fmt: skip
        return out

    def gated(self, gate_up: Tensor, activation: Activation) -> Tensor:
        num_tokens, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty((num_tokens, size))
        gate_up, is_gelu = gate_up.contiguous(), activation == "gelu_tanh"
        self._library.gated(out.data_ptr(), gate_up.data_ptr(), num_tokens, size, is_gelu)
        return out


def _by_token(x: Tensor) -> Tensor:
    """x (num_tokens, heads, head_dim) with the heads of a token behind each other."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


class NativePaged(TorchPaged):
    """An AttentionBackend for the CPU. Other caches than plain float32 are left to torch."""

    def __init__(self, library: Library) -> None:
        super().__init__()
        self._library = library

    def store(self, k: Tensor, v: Tensor, cache: KvLayer, slot_mapping: Tensor) -> None:
        if not self._fits(cache):
            return super().store(k, v, cache, slot_mapping)
        k, v = _by_token(k), _by_token(v)
        _, size, kv_heads, head_dim = cache.k.shape
        self._library.store(
            cache.k.data_ptr(), cache.v.data_ptr(), k.data_ptr(), v.data_ptr(),
            slot_mapping.data_ptr(), len(k), k.stride(0), v.stride(0), kv_heads, head_dim, size,
        )  # fmt: skip
        return None

    def attend(
        self, q: Tensor, cache: KvLayer, batch: AttentionBatch, params: AttentionParams
    ) -> Tensor:
        if not self._fits(cache):
            return super().attend(q, cache, batch, params)
        q, tables = _by_token(q), batch.block_tables
        _, size, kv_heads, head_dim = cache.k.shape
        out = torch.zeros(q.shape)
        self._library.attend(
            out.data_ptr(), q.data_ptr(), cache.k.data_ptr(), cache.v.data_ptr(),
            batch.query_start.data_ptr(), batch.context_lens.data_ptr(), tables.data_ptr(),
            len(batch.context_lens), batch.max_query_len, tables.stride(0), q.stride(0),
            q.shape[1], kv_heads, head_dim, size, params.window, params.scale, params.soft_cap,
        )  # fmt: skip
        return out

    def _fits(self, cache: KvLayer) -> bool:
        """As `empty_layer` makes it by head, in float32, of whole vectors."""
        size, kv_heads, head_dim = cache.k.shape[1:]
        each = kv_heads * head_dim * size
        return bool(
            cache.k.dtype == torch.float32
            and cache.k.stride() == (each, 1, head_dim * size, size)
            and cache.v.stride() == (each, head_dim, head_dim * size, 1)
            and size % self._library.step == 0
            and head_dim % self._library.step == 0
        )
