"""Attention by the Triton kernels: the back end of GPUs.

Knows how many pieces of a context keep the device busy; what is computed is in `kernels/`.
"""

from torch import Tensor

from engine.paged.attention.base import AttentionBatch, AttentionParams, KvLayer
from engine.paged.kernels import attention
from engine.paged.kernels.store import store_triton


class TritonPaged:
    """An AttentionBackend for CUDA. Its launches depend on shapes only, so graphs may hold them."""

    by_head = False

    def __init__(self, num_sms: int) -> None:
        """num_sms: the device's streaming multiprocessors."""
        self._num_sms = num_sms

    def store(self, k: Tensor, v: Tensor, cache: KvLayer, slot_mapping: Tensor) -> None:
        store_triton(k, v, cache, slot_mapping)

    def attend(
        self, q: Tensor, cache: KvLayer, batch: AttentionBatch, params: AttentionParams
    ) -> Tensor:
        num_seqs, num_kv_heads = batch.context_lens.shape[0], cache.k.shape[2]
        splits = attention.choose_splits(num_seqs, num_kv_heads, self._num_sms)
        return attention.attend_triton(q, cache, batch, params, splits)
