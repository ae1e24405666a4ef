"""Random paged caches and batches for kernel tests and benchmarks; every block is scattered."""

import torch

from engine.gguf.types import BLOCKS
from engine.paged.attention.base import AttentionBatch, KvLayer
from engine.paged.weights.planar import repack


def make_batch(lengths, block_size, device="cpu", poison=True):
    """A batch of (new tokens, context length) pairs; free and padding table entries are block 0."""
    new, contexts = [n for n, _ in lengths], [c for _, c in lengths]
    counts = [-(-context // block_size) for context in contexts]
    order = (torch.randperm(sum(counts)) + 1).tolist()  # block 0 is the null block
    tables = torch.zeros(len(lengths), max(counts) + 1, dtype=torch.int32)
    slots = []
    for row, (fresh, context) in enumerate(lengths):
        tables[row, : counts[row]] = torch.tensor([order.pop() for _ in range(counts[row])])
        at = torch.arange(context - fresh, context)
        slots.append(tables[row].long()[at // block_size] * block_size + at % block_size)
    starts = torch.tensor([0, *new]).cumsum(0).to(torch.int32)
    return AttentionBatch(
        starts.to(device),
        torch.tensor(contexts, dtype=torch.int32, device=device),
        tables.to(device),
        torch.cat(slots).to(device),
        max(new),
        max(contexts),
    )


def make_cache(batch, block_size, num_kv_heads, head_dim, dtype, quantized=False):
    """A cache filled for the batch's contexts. What no sequence may see is NaN, or large where a
    block was begun: the torch back end clears a block then, and only hides the rest of it."""
    tables, device = batch.block_tables, batch.block_tables.device
    shape = (int(tables.max()) + 2, block_size, num_kv_heads, head_dim)
    written = torch.zeros(shape[:2], dtype=torch.bool, device=device)
    for row, context in enumerate(batch.context_lens.tolist()):
        at = torch.arange(context, device=device)
        written[tables[row].long()[at // block_size], at % block_size] = True
    begun = written.any(1, keepdim=True) & ~written
    if quantized:
        parts = [torch.randint(-127, 128, shape, device=device).to(torch.int8) for _ in "kv"]
        scales = [(torch.rand(shape[:3], device=device) / 64).half() for _ in "kv"]
        for scale in scales:
            scale[~written] = float("nan")
            scale[begun] = 1.0
        return KvLayer(*parts, *scales)
    parts = [torch.randn(shape, device=device).to(dtype) for _ in "kv"]
    for part in parts:
        part[~written] = float("nan")
        part[begun] = 1e4
    return KvLayer(*parts)


_HALVES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_K": (0, 2), "Q6_K": (208,)}  # offsets of float16 fields


def random_blocks(kind, out_features, in_features, device="cpu"):
    """Random valid blocks of a ggml type as (bytes,) uint8: all bits random, scales finite."""
    elements, size = BLOCKS[kind]
    shape = (out_features * in_features // elements, size)
    raw = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    for at in _HALVES[kind.name]:
        scale = (torch.randn(len(raw), 1, device=device) / 64).half()
        raw[:, at : at + 2] = scale.view(torch.uint8)
    return raw.view(-1)


def random_planar(kind, out_features, in_features, device="cpu"):
    return repack(random_blocks(kind, out_features, in_features, device), kind, in_features)
