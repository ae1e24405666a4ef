"""What an attention back end is given and what it must do; one is chosen when the engine starts.

Shapes use the glossary's words. Block 0 is the null block: padding reads and writes land there.
"""

from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Which tokens of one step belong to which sequence, and where their KV lies.

    query_start     (num_seqs + 1,)           int32   first token of each sequence in this step
    context_lens    (num_seqs,)               int32   tokens with KV, with this step's; 0: padding
    block_tables    (num_seqs, max_blocks)    int32   block ids in order; 0 beyond the context
    slot_mapping    (num_tokens,)             int64   block_id * block_size + offset of each token
    """

    query_start: torch.Tensor
    context_lens: torch.Tensor
    block_tables: torch.Tensor
    slot_mapping: torch.Tensor
    max_query_len: int  # 1: a pure decode step
    max_context_len: int


@dataclass(frozen=True, slots=True)
class KvLayer:
    """One layer's part of the cache.

    k, v      (num_blocks, block_size, num_kv_heads, head_dim)   model dtype, or int8 with scales
    k_scale, v_scale   (num_blocks, block_size, num_kv_heads)    float16, or None
    """

    k: torch.Tensor
    v: torch.Tensor
    k_scale: torch.Tensor | None = None
    v_scale: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class AttentionParams:
    """What a layer's attention computes."""

    scale: float
    window: int = 0  # tokens that a query sees, itself included; 0: all before it
    soft_cap: float = 0.0  # scores become cap * tanh(scores / cap); 0: off


class AttentionBackend(Protocol):
    """Writes new KV into the cache and attends over it. Stateless between calls.

    by_head   it is fastest where the memory of a block is (num_kv_heads, head_dim, block_size)
              for keys and (num_kv_heads, block_size, head_dim) for values
    """

    by_head: bool

    def store(
        self, k: torch.Tensor, v: torch.Tensor, cache: KvLayer, slot_mapping: torch.Tensor
    ) -> None:
        """Scatter k, v (num_tokens, num_kv_heads, head_dim) into the cache, in place."""

    def attend(
        self, q: torch.Tensor, cache: KvLayer, batch: AttentionBatch, params: AttentionParams
    ) -> torch.Tensor:
        """q (num_tokens, num_heads, head_dim) → the same shape; causal, over each one's context."""
