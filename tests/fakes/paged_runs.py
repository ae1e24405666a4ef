"""Driving the paged decoder without an engine: one cache, blocks by the row, whole prompts."""

import torch

from engine.gguf import read_header
from engine.paged.arch import arch_spec
from engine.paged.attention.base import AttentionBatch, KvLayer
from engine.paged.attention.torch_paged import TorchPaged
from engine.paged.decoder import Decoder
from engine.paged.weights.load import load_weights

CPU = torch.device("cpu")


def load_decoder(path, dtype=torch.float32, context_length=0, keep_quantized=False):
    header = read_header(path)
    spec = arch_spec(header, context_length)
    weights = load_weights(path, header, spec, CPU, dtype, keep_quantized=keep_quantized)
    return Decoder(spec, weights)


def empty_cache(decoder, num_blocks, block_size, dtype=torch.float32, fill=0.0):
    """One KvLayer per layer of the decoder, full of `fill`."""
    spec = decoder.spec
    shape = (num_blocks, block_size, spec.num_kv_heads, spec.head_dim)
    return [
        KvLayer(torch.full(shape, fill, dtype=dtype), torch.full(shape, fill, dtype=dtype))
        for _ in range(spec.num_layers)
    ]


def step_batch(queries, contexts, block_tables, block_size):
    """An AttentionBatch in which sequence i has its last `queries[i]` of `contexts[i]` tokens."""
    slots = [
        tables[position // block_size] * block_size + position % block_size
        for count, context, tables in zip(queries, contexts, block_tables, strict=True)
        for position in range(context - count, context)
    ]
    width = max(len(tables) for tables in block_tables)
    padded = [list(tables) + [0] * (width - len(tables)) for tables in block_tables]
    start = torch.tensor([0, *queries]).cumsum(0)
    return AttentionBatch(
        query_start=start.int(),
        context_lens=torch.tensor(contexts, dtype=torch.int32),
        block_tables=torch.tensor(padded, dtype=torch.int32),
        slot_mapping=torch.tensor(slots, dtype=torch.int64),
        max_query_len=max(queries),
        max_context_len=max(contexts),
    )


def positions_of(queries, contexts):
    spans = zip(queries, contexts, strict=True)
    return torch.cat([torch.arange(context - count, context) for count, context in spans])


class Sequences:
    """Token sequences that advance together over one cache, each in blocks of its own."""

    def __init__(self, decoder, prompts, *, block_size=4, room=64, fill=0.0):
        self.decoder, self.tokens, self.block_size = decoder, [list(p) for p in prompts], block_size
        self.computed = [0] * len(prompts)
        per_sequence = -(-(max(map(len, self.tokens)) + room) // block_size)
        order = torch.randperm(per_sequence * len(prompts)) + 1  # block 0 is the null block
        self.blocks = order.view(len(prompts), per_sequence).tolist()
        self.kv = empty_cache(decoder, order.numel() + 1, block_size, fill=fill)
        self.attention = TorchPaged()

    @torch.inference_mode()
    def step(self, counts):
        """Compute `counts[i]` more tokens of each sequence: logits of all, one after another."""
        contexts = [done + count for done, count in zip(self.computed, counts, strict=True)]
        spans = zip(self.tokens, self.computed, contexts, strict=True)
        token_ids = torch.tensor([t for tokens, a, b in spans for t in tokens[a:b]])
        tables = [
            blocks[: -(-context // self.block_size)]
            for blocks, context in zip(self.blocks, contexts, strict=True)
        ]
        batch = step_batch(counts, contexts, tables, self.block_size)
        positions = positions_of(counts, contexts)
        hidden = self.decoder.forward(token_ids, positions, batch, self.kv, self.attention)
        self.computed = contexts
        return self.decoder.logits(hidden)

    def greedy(self, count):
        """Generate `count` tokens for each sequence."""
        produced = [[] for _ in self.tokens]
        for _ in range(count):
            counts = [len(t) - done for t, done in zip(self.tokens, self.computed, strict=True)]
            last = torch.tensor(counts).cumsum(0) - 1
            for i, token in enumerate(self.step(counts)[last].argmax(-1).tolist()):
                self.tokens[i].append(token)
                produced[i].append(token)
        return produced
