"""The network: a llama-architecture decoder in plain torch, as llama.cpp computes "llama" files.

Knows shapes and arithmetic; nothing of text or files. RMSNorm before each half, rotary positions
on neighbouring pairs of dimensions (llama.cpp's "norm" rope, so no weight is permuted on
export), grouped-query attention, SwiGLU, no biases, input and output embeddings shared.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network; every matrix row is a multiple of 32, the block of Q8_0."""

    vocab_size: int
    context_length: int = 1024
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    feed_forward: int = 704
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5


class Decoder(nn.Module):
    """Token ids (batch, length) to states (batch, length, hidden), and states to logits."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab_size, shape.hidden)
        self.blocks = nn.ModuleList(Block(shape, dropout) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=shape.norm_eps)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("rotation", rotations(shape), persistent=False)
        self._initialise()

    def forward(self, ids: Tensor) -> Tensor:
        """States (batch, length, hidden), causal: `logits` turns any of them into predictions.

        Sequences start at position 0 and are padded on the right.
        """
        rotation = self.rotation[: ids.shape[1]]
        x = self.dropout(self.embedding(ids))
        for block in self.blocks:
            x = block(x, rotation)
        return self.norm(x)

    def logits(self, states: Tensor) -> Tensor:
        """Scores of the next token: (..., hidden) to (..., vocab_size)."""
        return states @ self.embedding.weight.T

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_residual = name.endswith(("attention.output.weight", "down.weight"))
                scale = (2 * self.shape.layers) ** -0.5 if into_residual else 1.0
                nn.init.normal_(parameter, std=0.02 * scale)


class Block(nn.Module):
    """Attention, then the feed-forward half, each added to the residual stream."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.hidden, eps=shape.norm_eps)
        self.attention = Attention(shape)
        self.feed_norm = nn.RMSNorm(shape.hidden, eps=shape.norm_eps)
        self.gate = nn.Linear(shape.hidden, shape.feed_forward, bias=False)
        self.up = nn.Linear(shape.hidden, shape.feed_forward, bias=False)
        self.down = nn.Linear(shape.feed_forward, shape.hidden, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        """x and the result: (batch, length, hidden)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation))
        y = self.feed_norm(x)
        return x + self.dropout(self.down(functional.silu(self.gate(y)) * self.up(y)))


class Attention(nn.Module):
    """Causal attention in which `heads // kv_heads` query heads share one key and value head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_width = shape.kv_heads * shape.head_dim
        self.query = nn.Linear(shape.hidden, shape.heads * shape.head_dim, bias=False)
        self.key = nn.Linear(shape.hidden, kv_width, bias=False)
        self.value = nn.Linear(shape.hidden, kv_width, bias=False)
        self.output = nn.Linear(shape.heads * shape.head_dim, shape.hidden, bias=False)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        """x and the result: (batch, length, hidden)."""
        query = rotate(self._split(self.query(x)), rotation)
        shared = self.shape.heads // self.shape.kv_heads
        key = rotate(self._split(self.key(x)), rotation).repeat_interleave(shared, dim=1)
        value = self._split(self.value(x)).repeat_interleave(shared, dim=1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.shape.head_dim)).transpose(1, 2)


def rotations(shape: Shape) -> Tensor:
    """Cosine and sine per position and pair: (context_length, 2, head_dim / 2)."""
    pair = torch.arange(0, shape.head_dim, 2, dtype=torch.float32)
    frequency = shape.rope_base ** (-pair / shape.head_dim)
    angle = torch.outer(torch.arange(shape.context_length, dtype=torch.float32), frequency)
    return torch.stack((angle.cos(), angle.sin()), dim=1)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn pairs (2i, 2i + 1) of x, (batch, heads, length, head_dim), by their position."""
    cosine, sine = rotation[:, 0].to(x.dtype), rotation[:, 1].to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = (even * cosine - odd * sine, even * sine + odd * cosine)
    return torch.stack(turned, dim=-1).flatten(-2)
