"""Which tensors a GGUF file must hold for each architecture, and in which order their rows lie.

Names and shapes only; shapes in ggml's order, (in, out). Everything in the file must be accounted
for: a tensor that nobody asked for means that the model computes something that we would not.
"""

from typing import NamedTuple

import torch

from engine.errors import ModelFormatError
from engine.gguf import Header
from engine.paged.arch import ArchSpec
from engine.paged.weights.dequant import check_supported

EMBEDDING = "token_embd"
OUTPUT = "output"
OUTPUT_NORM = "output_norm"

_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_OTHER_TOWERS = ("v.", "mm.")  # an image encoder in the same file, which text does not need


class Part(NamedTuple):
    """One tensor of a linear layer that may join several; `name` without .weight or .bias."""

    name: str
    out_features: int
    heads: int = 0  # above 0: rotary pairs of so many heads are to be moved apart


def qkv_parts(spec: ArchSpec, layer: int) -> tuple[Part, ...]:
    """The parts of one layer's query, key and value projection, in this order."""
    p = f"blk.{layer}."
    if spec.fused:
        return (Part(p + "attn_qkv", spec.q_size + 2 * spec.kv_size),)
    q_heads, k_heads = (spec.num_heads, spec.num_kv_heads) if spec.interleaved else (0, 0)
    return (
        Part(p + "attn_q", spec.q_size, q_heads),
        Part(p + "attn_k", spec.kv_size, k_heads),
        Part(p + "attn_v", spec.kv_size),
    )


def gate_up_parts(spec: ArchSpec, layer: int) -> tuple[Part, ...]:
    """The parts of one layer's gate and up projection, in this order."""
    p = f"blk.{layer}."
    if spec.fused:
        return (Part(p + "ffn_up", 2 * spec.ff),)
    return (Part(p + "ffn_gate", spec.ff), Part(p + "ffn_up", spec.ff))


def neox_order(heads: int, head_dim: int, rotary_dim: int) -> torch.Tensor:
    """Rows of an interleaved projection in the order in which half a head rotates with the other.

    llama.cpp's converter permutes the q and k rows of the architecture llama to pairs
    (2i, 2i + 1) (conversion of LlamaModel, `permute`); this undoes it. (heads * head_dim,) int64.
    """
    rows = torch.arange(heads * head_dim).view(heads, head_dim)
    pairs = rows[:, :rotary_dim].view(heads, rotary_dim // 2, 2).transpose(1, 2)
    return torch.cat((pairs.reshape(heads, -1), rows[:, rotary_dim:]), 1).reshape(-1)


def check_tensors(header: Header, spec: ArchSpec) -> None:
    """Raise ModelFormatError unless all tensors are there, of the right shape, readable, known."""
    required, optional = _expected(spec)
    for name, shape in (required | optional).items():
        tensor = header.tensor(name)
        if tensor is None:
            if name in required:
                raise ModelFormatError(f"the tensor '{name}' is missing: convert the model again")
            continue
        if tensor.shape != shape:
            raise ModelFormatError(f"tensor '{name}' has shape {tensor.shape}, expected {shape}")
        check_supported(tensor.type, name)
    for tensor in header.tensors:
        known = tensor.name in required or tensor.name in optional
        if not known and not tensor.name.startswith(_OTHER_TOWERS):
            raise ModelFormatError(
                f"tensor '{tensor.name}' is not part of a {spec.architecture} model as the paged "
                "engine computes it: use the llama engine"
            )


def _expected(spec: ArchSpec) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Shapes by name of the tensors that must be there, and of those that may."""
    hidden, vocab = spec.hidden, spec.vocab_size
    required: dict[str, tuple[int, ...]] = {
        EMBEDDING + ".weight": (hidden, vocab),
        OUTPUT_NORM + ".weight": (hidden,),
    }
    optional: dict[str, tuple[int, ...]] = {OUTPUT + ".weight": (hidden, vocab)}
    optional |= dict.fromkeys(_FACTORS, (spec.rope.dim // 2,))
    for layer in range(spec.num_layers):
        p = f"blk.{layer}."
        for norm in _norms(spec):
            size = spec.head_dim if norm in ("attn_q_norm", "attn_k_norm") else hidden
            required[f"{p}{norm}.weight"] = (size,)
        qkv = qkv_parts(spec, layer)
        outputs = (Part(p + "attn_output", hidden), Part(p + "ffn_down", hidden))
        for part in (*qkv, *gate_up_parts(spec, layer), *outputs):
            rows_in = {p + "attn_output": spec.q_size, p + "ffn_down": spec.ff}
            required[part.name + ".weight"] = (rows_in.get(part.name, hidden), part.out_features)
            biased = required if spec.qkv_bias and part in qkv else optional
            biased[part.name + ".bias"] = (part.out_features,)
    return required, optional


def _norms(spec: ArchSpec) -> tuple[str, ...]:
    norms: tuple[str, ...] = ("attn_norm", "ffn_norm")
    if spec.qk_norm:
        norms += ("attn_q_norm", "attn_k_norm")
    if spec.post_norms:
        norms += ("post_attention_norm", "post_ffw_norm")
    return norms
