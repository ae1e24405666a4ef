"""What one decoder must know of each architecture: a table, and figures from a GGUF header.

Knows metadata keys and the meaning of the differences between families; knows nothing of tensor
names (`weights/names.py`) or of computing (`decoder.py`). Keys: llama.cpp, gguf-py/constants.py.
"""

import math
from dataclasses import dataclass
from typing import Literal

from engine.errors import ModelFormatError
from engine.gguf import Header

Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True, slots=True)
class _Family:
    """How an architecture differs from llama."""

    interleaved: bool = False  # rotary pairs are (2i, 2i + 1) in the file, not (i, i + half)
    qkv_bias: bool = False
    qk_norm: bool = False  # each head's query and key are normalised before rotation
    post_norms: bool = False  # attention and feed-forward outputs are normalised as well
    fused: bool = False  # q, k, v in one tensor, gate and up in another
    embedding_scaled: bool = False  # embeddings times sqrt(hidden)
    activation: Activation = "silu"
    window_period: int = 0  # n: all layers but each n-th have the window; 1: all; 0: none
    window: int = 0  # where the file does not say
    local_theta: float = 0.0  # rotary base of windowed layers; 0: the same as the others'
    attention_soft_cap: float = 0.0  # where the file does not say
    final_soft_cap: float = 0.0
    wide_layers: int = 0  # a model of so many layers scales queries by hidden / heads


_FAMILIES = {
    "llama": _Family(interleaved=True, window_period=1),  # also Mistral and SmolLM
    "qwen2": _Family(qkv_bias=True),
    "qwen3": _Family(qk_norm=True),
    "gemma2": _Family(
        post_norms=True,
        embedding_scaled=True,
        activation="gelu_tanh",
        window_period=2,
        window=4096,
        attention_soft_cap=50.0,
        final_soft_cap=30.0,
        wide_layers=46,
    ),
    "gemma3": _Family(
        qk_norm=True,
        post_norms=True,
        embedding_scaled=True,
        activation="gelu_tanh",
        window_period=6,
        local_theta=10000.0,
        wide_layers=62,
    ),
    "phi3": _Family(fused=True, window_period=1),
}

ARCHITECTURES = tuple(_FAMILIES)


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding of one kind of layer."""

    theta: float
    dim: int  # elements of a head that rotate
    scaling: Literal["none", "linear", "yarn"] = "none"
    factor: float = 1.0  # by which the scaling stretches the context
    original_context: int = 0  # tokens trained before stretching
    attention_factor: float = 1.0  # cosine and sine are multiplied by it
    factors_tensor: str = ""  # name of the tensor that divides the frequencies


@dataclass(frozen=True, slots=True)
class ArchSpec:
    """Everything the decoder computes with, besides weights."""

    architecture: str
    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ff: int
    vocab_size: int
    context_length: int  # tokens the model was trained for
    norm_eps: float
    interleaved: bool
    qkv_bias: bool
    qk_norm: bool
    post_norms: bool
    fused: bool
    activation: Activation
    embedding_scale: float
    query_scale: float
    attention_soft_cap: float  # 0: off
    final_soft_cap: float  # 0: off
    windows: tuple[int, ...]  # of each layer; 0: the whole context
    rope: RopeSpec
    local_rope: RopeSpec  # of layers with a window

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim


def arch_spec(header: Header, context_length: int = 0) -> ArchSpec:
    """Read the spec; raises ModelFormatError for what the decoder cannot run.

    context_length  tokens that sequences may have; chooses between phi3's short and long rotary
                    factors, which cannot change once keys are cached. 0: as trained
    """
    family = _FAMILIES.get(header.architecture)
    if family is None:
        raise ModelFormatError(
            f"the architecture '{header.architecture}' is not one that the paged engine runs "
            f"({', '.join(ARCHITECTURES)}): use the llama engine for it"
        )
    _check_shape(header)
    head_dim, layers = header.key_length, header.block_count
    rope = _rope(header, family, context_length or header.context_length)
    return ArchSpec(
        architecture=header.architecture,
        num_layers=layers,
        hidden=header.embedding_length,
        num_heads=header.head_count,
        num_kv_heads=header.head_count_kv,
        head_dim=head_dim,
        ff=header.feed_forward_length,
        vocab_size=_vocab_size(header),
        context_length=header.context_length,
        norm_eps=_number(header, "attention.layer_norm_rms_epsilon", 1e-5),
        interleaved=family.interleaved,
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        post_norms=family.post_norms,
        fused=family.fused,
        activation=family.activation,
        embedding_scale=math.sqrt(header.embedding_length) if family.embedding_scaled else 1.0,
        query_scale=_query_scale(header, family),
        attention_soft_cap=_number(header, "attn_logit_softcapping", family.attention_soft_cap),
        final_soft_cap=_number(header, "final_logit_softcapping", family.final_soft_cap),
        windows=_windows(header, family),
        rope=rope,
        local_rope=_local_rope(header, family, rope),
    )


def _check_shape(header: Header) -> None:
    figures = {
        "block_count": header.block_count,
        "embedding_length": header.embedding_length,
        "feed_forward_length": header.feed_forward_length,
        "attention.head_count": header.head_count,
        "attention.head_count_kv": header.head_count_kv,
        "context_length": header.context_length,
        "attention.key_length": header.key_length,
    }
    for suffix, value in figures.items():
        if value <= 0:
            raise ModelFormatError(f"'{header.architecture}.{suffix}' is {value}, not above 0")
    for suffix in ("attention.head_count", "attention.head_count_kv", "feed_forward_length"):
        if len(set(header.integers(suffix))) > 1:
            raise _unsupported(f"layers of different '{suffix}'")
    if header.expert_count:
        raise _unsupported(f"a mixture of {header.expert_count} experts")
    if header.key_length != header.value_length:
        raise _unsupported(f"keys of {header.key_length} and values of {header.value_length}")
    if header.head_count % header.head_count_kv:
        raise ModelFormatError(
            f"{header.head_count} heads cannot share {header.head_count_kv} key and value heads"
        )
    if header.rope_dimension_count > header.key_length or header.rope_dimension_count % 2:
        raise ModelFormatError(
            f"{header.rope_dimension_count} of {header.key_length} elements of a head rotate; "
            "an even number of at most all is allowed"
        )


def _unsupported(what: str) -> ModelFormatError:
    return ModelFormatError(f"the model has {what}, which the paged engine does not run: use llama")


def _vocab_size(header: Header) -> int:
    embedding = header.tensor("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelFormatError("the matrix 'token_embd.weight' is missing: convert the model again")
    return embedding.shape[1]


def _number(header: Header, suffix: str, default: float) -> float:
    value = header.metadata.get(f"{header.architecture}.{suffix}", default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ModelFormatError(f"'{header.architecture}.{suffix}' is {value!r}, not a number")
    return float(value)


def _query_scale(header: Header, family: _Family) -> float:
    wide = header.block_count == family.wide_layers
    size = header.embedding_length / header.head_count if wide else header.key_length
    return _number(header, "attention.scale", 0.0) or 1 / math.sqrt(size)


def _windows(header: Header, family: _Family) -> tuple[int, ...]:
    layers, period = header.block_count, family.window_period
    window = header.sliding_window or family.window
    if not period or not window:
        return (0,) * layers
    if period == 1:
        return (window,) * layers
    return tuple(0 if layer % period == period - 1 else window for layer in range(layers))


def _rope(header: Header, family: _Family, context_length: int) -> RopeSpec:
    kind = header.text(f"{header.architecture}.rope.scaling.type") or "none"
    original = header.integer("rope.scaling.original_context_length") or header.context_length
    factor = _number(header, "rope.scaling.factor", 1.0)
    attention_factor = _number(header, "rope.scaling.attn_factor", 1.0)
    theta = _number(header, "rope.freq_base", 10000.0)
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise _unsupported(f"rotary scaling of the kind '{kind}'")
    if factor <= 0 or theta <= 1:
        raise ModelFormatError(f"rotary scaling by {factor} of base {theta} makes no sense")
    if kind == "yarn":
        attention_factor *= 1 + 0.1 * math.log(max(factor, 1.0))
    length = "long" if context_length > original else "short"
    return RopeSpec(
        theta=theta,
        dim=header.rope_dimension_count,
        scaling="linear" if kind == "linear" else "yarn" if kind == "yarn" else "none",
        factor=factor,
        original_context=original,
        attention_factor=attention_factor,
        factors_tensor=_present(header, "rope_freqs.weight", f"rope_factors_{length}.weight"),
    )


def _present(header: Header, *names: str) -> str:
    return next((name for name in names if header.tensor(name)), "")


def _local_rope(header: Header, family: _Family, rope: RopeSpec) -> RopeSpec:
    """Windowed layers of gemma3 rotate by a base of their own and are never stretched."""
    if not family.local_theta:
        return rope
    return RopeSpec(_number(header, "rope.freq_base_swa", family.local_theta), rope.dim)
