"""Models of random weights at the shapes of public ones, made where they compute: no file needed.

Speed depends on shapes and types, not on what weights say. The paged engine takes such a model as
if it had been read; llama.cpp, gguf and a tokenizer are not needed. Knows nothing of measuring.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import harness
import torch
from torch import Tensor

sys.path.insert(0, str(harness.REPOSITORY))

from engine.gguf.types import GGMLType
from engine.paged.arch import ArchSpec, RopeSpec
from engine.paged.decoder import Decoder
from engine.paged.device import BackEnds, empty_layer, find_back_ends
from engine.paged.kernels.planar_linear import PlanarLinear
from engine.paged.layers import Linear, Rope, dense_linear
from engine.paged.limits import Limits
from engine.paged.memory import BLOCK_SIZE, Room, plan_kv
from engine.paged.model import PagedModel
from engine.paged.weights.load import LayerWeights, Weights
from tests.gpu.paged_cases import random_planar

STORED = {"dense": None, "Q8_0": GGMLType.Q8_0, "Q4_K": GGMLType.Q4_K}  # how weights are kept
Kind = GGMLType | None


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the speed of a dense decoder with a llama-like layer."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ff: int
    vocab: int
    tied: bool
    qk_norm: bool = False
    theta: float = 500_000.0


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", 2, 64, 4, 2, 16, 128, 320, True),
        Shape("135m", 30, 576, 9, 3, 64, 1536, 49152, True),  # SmolLM2
        Shape("0.5b", 24, 896, 14, 2, 64, 4864, 151936, True),  # Qwen2.5, without its biases
        Shape("Llama-3.2-1B", 16, 2048, 32, 8, 64, 8192, 128256, True),
        Shape("Qwen3-4B", 36, 2560, 32, 8, 128, 9728, 151936, True, qk_norm=True),
        Shape("Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, 128256, False),
    )
}


class NoVocab:
    """Stands for a vocabulary where prompts are token ids and nobody reads the text."""

    bos = eos = end_id = -1

    def __init__(self, size: int) -> None:
        self.size = size

    def text(self, _token: int) -> str:
        return ""

    def check(self, tokens: list[int]) -> None:
        assert all(0 <= token < self.size for token in tokens)

    def piece(self, _token: int, *, special: bool) -> bytes:
        return b"x" if special else b""

    output_piece = staticmethod(lambda _token: b"x")


def open_model(
    shape: Shape, device: torch.device, *, rows: int, context: int, stored: str = "dense",
    step_tokens: int = 512, interpreted: bool = False, int8_kv: bool = False,
) -> PagedModel:  # fmt: skip
    """A model for `rows` sequences of `context` tokens each, with a cache for all of them."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(1)
    spec = arch_of(shape)
    back_ends = find_back_ends(device, dtype, shape.head_dim, interpreted=interpreted)
    weights = _weights(shape, spec, device, dtype, STORED[stored], back_ends)
    kv_type = torch.int8 if int8_kv else dtype
    per_token = 2 * shape.layers * shape.kv_heads * (shape.head_dim * kv_type.itemsize)
    per_token += 4 * shape.layers * shape.kv_heads if int8_kv else 0
    budget = plan_kv(
        context_length=rows * (-(-context // BLOCK_SIZE) + 2) * BLOCK_SIZE, max_running=1,
        block_size=BLOCK_SIZE,
        bytes_per_token=per_token, room=Room(1 << 50, 0, 0),
    )  # fmt: skip
    size = (budget.num_blocks, BLOCK_SIZE, shape.kv_heads, shape.head_dim)
    by_head = back_ends.attention.by_head
    return PagedModel(
        spec=spec,
        vocab=NoVocab(shape.vocab),  # type: ignore[arg-type]
        end_tokens=frozenset(),
        decoder=Decoder(spec, weights, back_ends.ops),
        back_ends=back_ends,
        kv=tuple(empty_layer(size, kv_type, device, by_head=by_head) for _ in range(shape.layers)),
        limits=Limits(
            num_blocks=budget.num_blocks, block_size=BLOCK_SIZE, context_length=context,
            max_running=rows, max_waiting=4096, step_tokens=max(step_tokens, rows),
        ),
        budget=budget,
        device=device,
        threads=torch.get_num_threads(),
        description=f"{shape.name} {stored}, {back_ends.description}",
    )  # fmt: skip


def arch_of(shape: Shape) -> ArchSpec:
    rope = RopeSpec(theta=shape.theta, dim=shape.head_dim)
    return ArchSpec(
        architecture="llama", num_layers=shape.layers, hidden=shape.hidden,
        num_heads=shape.heads, num_kv_heads=shape.kv_heads, head_dim=shape.head_dim, ff=shape.ff,
        vocab_size=shape.vocab, context_length=1 << 17, norm_eps=1e-5, interleaved=False,
        qkv_bias=False, qk_norm=shape.qk_norm, post_norms=False, fused=False, activation="silu",
        embedding_scale=1.0, query_scale=shape.head_dim**-0.5, attention_soft_cap=0.0,
        final_soft_cap=0.0, windows=(0,) * shape.layers, rope=rope, local_rope=rope,
    )  # fmt: skip


def step_bytes(model: PagedModel, streams: int, context: int) -> tuple[int, int]:
    """Bytes that a decode step must read: (weights as stored, keys and values of all contexts).

    The embedding is looked up, not read, unless it is the output matrix as well.
    """
    weights: Any = model.decoder._weights  # noqa: SLF001 the decoder has no need to show them
    parts: list[Any] = [weights.output, weights.output_norm]
    for layer in weights.layers:
        parts += [getattr(layer, name) for name in layer.__slots__]
    read = sum(part.nbytes for part in parts if part is not None)
    return read, streams * context * model.budget.bytes_per_token


def _weights(
    shape: Shape, spec: ArchSpec, device: torch.device, dtype: torch.dtype, kind: Kind,
    back_ends: BackEnds,
) -> Weights:  # fmt: skip
    def matrix(rows: int, columns: int) -> Tensor:
        out = torch.empty(rows, columns, dtype=dtype, device=device)
        return out.normal_(0, columns**-0.5)

    def linear(rows: int, columns: int) -> Linear:
        if kind is None:
            return dense_linear(matrix(rows, columns), native=back_ends.native)
        return PlanarLinear((random_planar(kind, rows, columns, device),), None, back_ends.num_sms)

    def norm(size: int) -> Tensor:
        return torch.ones(size, dtype=dtype, device=device)

    embedding = matrix(shape.vocab, shape.hidden)
    is_shared = shape.tied and kind is None
    output = (
        dense_linear(embedding, native=back_ends.native)
        if is_shared
        else linear(shape.vocab, shape.hidden)
    )
    layers = tuple(
        LayerWeights(
            attn_norm=norm(shape.hidden),
            qkv=linear(spec.q_size + 2 * spec.kv_size, shape.hidden),
            q_norm=norm(shape.head_dim) if shape.qk_norm else None,
            k_norm=norm(shape.head_dim) if shape.qk_norm else None,
            attn_output=linear(shape.hidden, spec.q_size),
            post_attention_norm=None,
            ffn_norm=norm(shape.hidden),
            gate_up=linear(2 * shape.ff, shape.hidden),
            ffn_down=linear(shape.hidden, shape.ff),
            post_ffw_norm=None,
        )
        for _ in range(shape.layers)
    )
    rope = Rope(spec.rope, None, device)
    found = Weights(embedding, layers, norm(shape.hidden), output, rope, rope, 0)
    total = sum(
        part.nbytes for layer in layers for name in layer.__slots__
        if (part := getattr(layer, name)) is not None
    )  # fmt: skip
    total += embedding.nbytes + (0 if is_shared else output.nbytes)
    return replace(found, nbytes=total)
