"""One decoder for every architecture of the table: tokens in, hidden states and logits out.

Stateless between calls: the KV cache belongs to the caller, attention to the back end. What
differs between architectures is data (`ArchSpec`), and absent pieces are None.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from engine.paged.arch import ArchSpec
from engine.paged.attention.base import AttentionBackend, AttentionBatch, AttentionParams, KvLayer
from engine.paged.layers import Ops, TorchOps
from engine.paged.weights.load import LayerWeights, Weights


class Decoder:
    """A model that computes. Call it under `torch.inference_mode()`."""

    def __init__(self, spec: ArchSpec, weights: Weights, ops: Ops | None = None) -> None:
        self.spec = spec
        self._weights = weights
        self._ops = ops or TorchOps()
        self._params = tuple(
            AttentionParams(spec.query_scale, window, spec.attention_soft_cap)
            for window in spec.windows
        )

    @property
    def nbytes(self) -> int:
        """Device memory of the weights."""
        return self._weights.nbytes

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        batch: AttentionBatch,
        kv: Sequence[KvLayer],
        attention: AttentionBackend,
    ) -> Tensor:
        """Write this step's keys and values into `kv` and return what `logits` takes.

        token_ids, positions  (num_tokens,) int32 or int64, sequence after sequence
        kv                    one KvLayer for each layer
        returns               (num_tokens, hidden), before the final norm
        """
        ops, spec, weights = self._ops, self.spec, self._weights
        residual = functional.embedding(token_ids, weights.embedding)
        residual = residual.to(weights.output_norm.dtype)
        if spec.embedding_scale != 1.0:
            residual = residual * spec.embedding_scale
        angles = weights.rope.angles(positions)
        local_angles = angles
        if spec.local_rope != spec.rope:
            local_angles = weights.local_rope.angles(positions)
        delta: Tensor | None = None  # what the previous block adds to the residual stream
        for layer, cache, params in zip(weights.layers, kv, self._params, strict=True):
            if delta is None:
                x = ops.rms_norm(residual, layer.attn_norm, spec.norm_eps)
            else:
                x, residual = ops.add_rms_norm(delta, residual, layer.attn_norm, spec.norm_eps)
            turn = local_angles if params.window else angles
            delta = self._attend(layer, x, turn, batch, cache, attention, params)
            x, residual = ops.add_rms_norm(delta, residual, layer.ffn_norm, spec.norm_eps)
            delta = layer.ffn_down(ops.gated(layer.gate_up(x), spec.activation))
            if layer.post_ffw_norm is not None:
                delta = ops.rms_norm(delta, layer.post_ffw_norm, spec.norm_eps)
        return residual if delta is None else residual + delta

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (rows, hidden) as `forward` returned it → (rows, vocab_size) float32."""
        spec, weights = self.spec, self._weights
        normed = self._ops.rms_norm(hidden, weights.output_norm, spec.norm_eps)
        logits = weights.output(normed).float()
        if spec.final_soft_cap:
            logits = torch.tanh(logits / spec.final_soft_cap) * spec.final_soft_cap
        return logits

    def _attend(
        self,
        layer: LayerWeights,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        batch: AttentionBatch,
        cache: KvLayer,
        attention: AttentionBackend,
        params: AttentionParams,
    ) -> Tensor:
        """The attention block: x (num_tokens, hidden) → the same shape."""
        ops, spec = self._ops, self.spec
        heads = layer.qkv(x).view(len(x), -1, spec.head_dim)  # (num_tokens, all heads, head_dim)
        turning = spec.num_heads + spec.num_kv_heads
        turned = heads[:, :turning]
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = turned.split((spec.num_heads, spec.num_kv_heads), 1)
            q = ops.rms_norm(q, layer.q_norm, spec.norm_eps)
            k = ops.rms_norm(k, layer.k_norm, spec.norm_eps)
            turned = torch.cat((q, k), 1)
        q, k = ops.rotate(turned, *angles).split((spec.num_heads, spec.num_kv_heads), 1)
        attention.store(k, heads[:, turning:], cache, batch.slot_mapping)
        out = layer.attn_output(attention.attend(q, cache, batch, params).reshape(len(x), -1))
        if layer.post_attention_norm is not None:
            out = ops.rms_norm(out, layer.post_attention_norm, spec.norm_eps)
        return out
