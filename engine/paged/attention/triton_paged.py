"""Attention by the Triton kernels: the back end of GPUs. `probe` says whether it works here.

Knows how many pieces of a context keep the device busy; what is computed is in `kernels/`.
"""

import torch
from torch import Tensor

from engine.paged.attention.base import AttentionBatch, AttentionParams, KvLayer
from engine.paged.attention.torch_paged import TorchPaged
from engine.paged.kernels import attention
from engine.paged.kernels.jit import has_triton
from engine.paged.kernels.store import store_triton

MIN_CAPABILITY = (8, 0)  # Ampere: asynchronous copies and bf16


class TritonPaged:
    """An AttentionBackend for CUDA. Its launches depend on shapes only, so graphs may hold them."""

    def __init__(self, device: torch.device) -> None:
        self._num_sms = torch.cuda.get_device_properties(device).multi_processor_count

    def store(self, k: Tensor, v: Tensor, cache: KvLayer, slot_mapping: Tensor) -> None:
        store_triton(k, v, cache, slot_mapping)

    def attend(
        self, q: Tensor, cache: KvLayer, batch: AttentionBatch, params: AttentionParams
    ) -> Tensor:
        num_seqs, num_kv_heads = batch.context_lens.shape[0], cache.k.shape[2]
        splits = attention.choose_splits(num_seqs, num_kv_heads, self._num_sms)
        return attention.attend_triton(q, cache, batch, params, splits)


def probe(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why this back end cannot serve here, or None after one token went through all its kernels.

    A compiler that does not know a new device must cost speed, not the engine.
    """
    if device.type != "cuda":
        return f"the device is {device.type}, the kernels need cuda"
    if not has_triton():
        return "triton is not installed: pip install hearth[gpu]"
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        return "compute capability {}.{} is below {}.{}".format(*capability, *MIN_CAPABILITY)
    try:
        return _disagreement(TritonPaged(device), device, dtype, head_dim)
    except Exception as error:  # the border to a compiler: any failure of it means "not here"
        return f"{type(error).__name__}: {error}"


def _disagreement(
    backend: TritonPaged, device: torch.device, dtype: torch.dtype, head_dim: int
) -> str | None:
    """Two tokens of prefill, then the second again as decode, against the twin."""
    generator = torch.Generator(device).manual_seed(0)
    qkv = torch.randn((2, 4, head_dim), device=device, generator=generator).to(dtype)
    cache = KvLayer(*torch.zeros((2, 2, 16, 1, head_dim), dtype=dtype, device=device))
    params = AttentionParams(head_dim**-0.5)
    slots = torch.tensor([16, 17], device=device)
    backend.store(qkv[:, 2:3], qkv[:, 3:], cache, slots)
    for count in (2, 1):
        start = torch.tensor([0, count], dtype=torch.int32, device=device)
        context, table = start[1:] * 0 + 2, torch.ones((1, 1), dtype=torch.int32, device=device)
        batch = AttentionBatch(start, context, table, slots[-count:], count, 2)
        q = qkv[-count:, :2]
        found = backend.attend(q, cache, batch, params)
        wanted = TorchPaged().attend(q, cache, batch, params)
        if not torch.allclose(found.float(), wanted.float(), rtol=0.02, atol=0.02):
            return f"the kernels disagree with their reference for {dtype} heads of {head_dim}"
    return None
