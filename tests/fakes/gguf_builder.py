"""Hand-written GGUF files for tests: honest tiny models that llama.cpp loads, and files that lie.

The writer knows the format only; it shares no code with the reader under test. Everything is
deterministic: the same arguments give the same bytes.
"""

import random
import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.vocabularies import bpe_vocabulary, wordpiece_vocabulary

# value type codes of the GGUF specification
UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = range(10)
UINT64, INT64, FLOAT64 = range(10, 13)
# tensor type codes of ggml
F32, F16, Q8_0 = 0, 1, 8

_SCALARS = {
    UINT8: "<B", INT8: "<b", UINT16: "<H", INT16: "<h", UINT32: "<I", INT32: "<i",
    FLOAT32: "<f", BOOL: "<?", UINT64: "<Q", INT64: "<q", FLOAT64: "<d",
}  # fmt: skip

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n'"
    " + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


RERANK_TEMPLATE = (
    "<|im_start|>user\n<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n"
)


@dataclass(frozen=True)
class Raw:
    """A value written as these bytes under this type code, whatever they mean."""

    type: int
    payload: bytes


@dataclass(frozen=True)
class Typed:
    """A scalar, or with `items` an array, of exactly this type code."""

    type: int
    value: Any = None
    items: Sequence[Any] | None = None


@dataclass(frozen=True)
class Tensor:
    """One tensor. `offset` and `n_dims` replace the true figures in the header (to lie)."""

    name: str
    shape: Sequence[int]
    type: int = F32
    data: bytes = b""
    offset: int | None = None
    n_dims: int | None = None


def build_gguf(
    metadata: Mapping[str, Any] | Iterable[tuple[str, Any]],
    tensors: Sequence[Tensor] = (),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    kv_count: int | None = None,
    tensor_count: int | None = None,
    alignment: int = 32,
) -> bytes:
    """The file's bytes. Pairs instead of a mapping may repeat a key; counts may lie."""
    pairs = list(metadata.items() if isinstance(metadata, Mapping) else metadata)
    out = bytearray(magic + struct.pack("<I", version))
    out += struct.pack("<Q", len(tensors) if tensor_count is None else tensor_count)
    out += struct.pack("<Q", len(pairs) if kv_count is None else kv_count)
    for key, value in pairs:
        out += encode_string(key) + encode_value(value)
    data = bytearray()
    for tensor in tensors:
        data += bytes(-len(data) % alignment)
        out += _tensor_info(tensor, len(data))
        data += tensor.data
    if tensors:
        data += bytes(-len(data) % alignment)
        out += bytes(-len(out) % alignment)
    return bytes(out + data)


def encode_string(text: str | bytes) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def encode_value(value: Any) -> bytes:
    """Type code and payload. Plain: bool, int (uint32), float (float32), str, lists of these."""
    if isinstance(value, Raw):
        return struct.pack("<I", value.type) + value.payload
    if isinstance(value, Typed):
        if value.items is None:
            return struct.pack("<I", value.type) + _payload(value.type, value.value)
        return _array(value.type, value.items)
    if isinstance(value, list):
        element = _natural_type(value[0]) if value else STRING
        return _array(INT32 if element == UINT32 else element, value)
    code = _natural_type(value)
    return struct.pack("<I", code) + _payload(code, value)


def _natural_type(value: Any) -> int:
    return {bool: BOOL, int: UINT32, float: FLOAT32, str: STRING, bytes: STRING}[type(value)]


def _payload(code: int, value: Any) -> bytes:
    return encode_string(value) if code == STRING else struct.pack(_SCALARS[code], value)


def _array(element: int, items: Sequence[Any]) -> bytes:
    head = struct.pack("<IIQ", ARRAY, element, len(items))
    return head + b"".join(_payload(element, item) for item in items)


def _tensor_info(tensor: Tensor, offset: int) -> bytes:
    n_dims = len(tensor.shape) if tensor.n_dims is None else tensor.n_dims
    return b"".join(
        (
            encode_string(tensor.name),
            struct.pack("<I", n_dims),
            struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape),
            struct.pack("<IQ", tensor.type, offset if tensor.offset is None else tensor.offset),
        )
    )


# -- tiny models that really load ------------------------------------------------------------


def tiny_llama_gguf(path: Path, **shape: Any) -> Path:
    """Write a random llama model with a byte-level BPE vocabulary and ChatML; about 0.5 MB.

    `shape` as in `tiny_llama_bytes`.
    """
    path.write_bytes(tiny_llama_bytes(**shape))
    return path


def tiny_llama_bytes(
    *,
    vocab: int = 320,
    layers: int = 2,
    embd: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    ff: int = 128,
    context: int = 512,
    seed: int = 0,
    ftype: int = F32,
    chat_template: str | None = CHATML,
    metadata: Mapping[str, Any] | None = None,
    ballast_mib: int = 0,
) -> bytes:
    """The bytes of a random llama model that llama.cpp loads.

    vocab     at least 260: 256 bytes, 4 specials, then merges learnt from one sentence, then filler
    ftype     F32, F16 or Q8_0, for matrices
    metadata  overrides; a value of None removes the key
    ballast_mib  of a tensor that no model has, for tests where only the size matters; llama.cpp
                 refuses it
    """
    pairs: dict[str, Any] = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "Tiny Llama",
        "general.file_type": {F32: 0, F16: 1, Q8_0: 7}[ftype],
        "llama.block_count": layers,
        "llama.context_length": context,
        "llama.embedding_length": embd,
        "llama.feed_forward_length": ff,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": embd // heads,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": vocab,
        **bpe_vocabulary(vocab),
    }
    if chat_template is not None:
        pairs["tokenizer.chat_template"] = chat_template
    weights = _Weights(seed, ftype)
    kv_dim = embd // heads * kv_heads
    tensors = [weights.matrix("token_embd.weight", embd, vocab, scale=1.0)]
    for layer in range(layers):
        p = f"blk.{layer}."
        tensors += [
            weights.norm(p + "attn_norm.weight", embd),
            weights.matrix(p + "attn_q.weight", embd, embd),
            weights.matrix(p + "attn_k.weight", embd, kv_dim),
            weights.matrix(p + "attn_v.weight", embd, kv_dim),
            weights.matrix(p + "attn_output.weight", embd, embd),
            weights.norm(p + "ffn_norm.weight", embd),
            weights.matrix(p + "ffn_gate.weight", embd, ff),
            weights.matrix(p + "ffn_up.weight", embd, ff),
            weights.matrix(p + "ffn_down.weight", ff, embd),
        ]
    tensors += [
        weights.norm("output_norm.weight", embd),
        weights.matrix("output.weight", embd, vocab),
    ]
    if ballast_mib:
        data = b"".join(random.Random(seed + i).randbytes(1 << 20) for i in range(ballast_mib))
        tensors.append(Tensor("ballast.weight", (1 << 18, ballast_mib), F32, data))
    return build_gguf(_overridden(pairs, metadata), tensors)


def tiny_embedding_gguf(
    path: Path,
    *,
    layers: int = 2,
    embd: int = 32,
    heads: int = 4,
    ff: int = 64,
    context: int = 128,
    seed: int = 0,
    pooling: int | None = 1,
    labels: int = 0,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a random BERT embedding model with a WordPiece vocabulary; pooling 1 is the mean.

    labels  of a classifier on top; with one it is a cross-encoder, which scores pairs
    """
    vocabulary = wordpiece_vocabulary()
    vocab = len(vocabulary["tokenizer.ggml.tokens"])
    pairs: dict[str, Any] = {
        "general.architecture": "bert",
        "general.type": "model",
        "general.name": "Tiny Bert",
        "general.file_type": 0,
        "bert.block_count": layers,
        "bert.context_length": context,
        "bert.embedding_length": embd,
        "bert.feed_forward_length": ff,
        "bert.attention.head_count": heads,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "bert.pooling_type": pooling,
        **vocabulary,
    }
    weights = _Weights(seed, F32)
    tensors = [
        weights.matrix("token_embd.weight", embd, vocab, scale=1.0),
        weights.matrix("token_types.weight", embd, 2),
        weights.matrix("position_embd.weight", embd, context),
        *weights.norm_pair("token_embd_norm", embd),
    ]
    for layer in range(layers):
        p = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors.append(weights.matrix(f"{p}{name}.weight", embd, embd))
            tensors.append(weights.zeros(f"{p}{name}.bias", embd))
        tensors += [
            *weights.norm_pair(p + "attn_output_norm", embd),
            weights.matrix(p + "ffn_up.weight", embd, ff),
            weights.zeros(p + "ffn_up.bias", ff),
            weights.matrix(p + "ffn_down.weight", ff, embd),
            weights.zeros(p + "ffn_down.bias", embd),
            *weights.norm_pair(p + "layer_output_norm", embd),
        ]
    if labels:
        tensors += [
            weights.matrix("cls.weight", embd, embd),
            weights.zeros("cls.bias", embd),
            weights.matrix("cls.output.weight", embd, labels),
            weights.zeros("cls.output.bias", labels),
        ]
    if labels > 1:
        pairs["bert.classifier.output_labels"] = [f"label {n}" for n in range(labels)]
    path.write_bytes(build_gguf(_overridden(pairs, metadata), tensors))
    return path


def tiny_qwen3_reranker_gguf(
    path: Path, *, embd: int = 64, heads: int = 4, ff: int = 128, context: int = 512, seed: int = 0
) -> Path:
    """Write a random Qwen3 reranker of one layer: a causal model whose last token is classified as
    "yes" or "no", with a template for pairs."""
    vocab, head_dim, arch = 320, embd // heads, "qwen3"
    pairs: dict[str, Any] = {
        "general.architecture": arch,
        "general.type": "model",
        "general.name": "Tiny Reranker",
        "general.file_type": 0,
        f"{arch}.block_count": 1,
        f"{arch}.context_length": context,
        f"{arch}.embedding_length": embd,
        f"{arch}.feed_forward_length": ff,
        f"{arch}.attention.head_count": heads,
        f"{arch}.attention.head_count_kv": heads,
        f"{arch}.attention.key_length": head_dim,
        f"{arch}.attention.value_length": head_dim,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-6,
        f"{arch}.rope.freq_base": 10000.0,
        f"{arch}.pooling_type": 4,
        f"{arch}.classifier.output_labels": ["yes", "no"],
        "tokenizer.chat_template.rerank": RERANK_TEMPLATE,
        **bpe_vocabulary(vocab),
    }
    weights = _Weights(seed, F32)
    p = "blk.0."
    tensors = [
        weights.matrix("token_embd.weight", embd, vocab, scale=1.0),
        weights.norm(p + "attn_norm.weight", embd),
        *(weights.matrix(f"{p}attn_{name}.weight", embd, embd) for name in "qkv"),
        weights.matrix(p + "attn_output.weight", embd, embd),
        weights.norm(p + "attn_q_norm.weight", head_dim),
        weights.norm(p + "attn_k_norm.weight", head_dim),
        weights.norm(p + "ffn_norm.weight", embd),
        weights.matrix(p + "ffn_gate.weight", embd, ff),
        weights.matrix(p + "ffn_up.weight", embd, ff),
        weights.matrix(p + "ffn_down.weight", ff, embd),
        weights.norm("output_norm.weight", embd),
        weights.matrix("cls.output.weight", embd, 2),
    ]
    path.write_bytes(build_gguf(pairs, tensors))
    return path


def tiny_lora_gguf(
    path: Path, *, layers: int = 2, embd: int = 64, rank: int = 4, seed: int = 1, scale: float = 0.5
) -> Path:
    """Write a LoRA adapter for `tiny_llama_gguf` of the same `layers` and `embd`."""
    pairs = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "general.name": "Tiny Lora",
        "general.file_type": 0,
        "adapter.type": "lora",
        "adapter.lora.alpha": float(rank),
    }
    weights = _Weights(seed, F32)
    tensors = []
    for layer in range(layers):
        for name in ("attn_q.weight", "attn_output.weight"):
            base = f"blk.{layer}.{name}"
            tensors += [
                weights.matrix(base + ".lora_a", embd, rank, scale=scale),
                weights.matrix(base + ".lora_b", rank, embd, scale=scale),
            ]
    path.write_bytes(build_gguf(pairs, tensors))
    return path


class _Weights:
    """Seeded random tensors, each drawn in the order it is asked for."""

    def __init__(self, seed: int, ftype: int) -> None:
        self._random = random.Random(seed)
        self._ftype = ftype

    def matrix(self, name: str, rows_in: int, rows_out: int, scale: float | None = None) -> Tensor:
        """A projection from `rows_in` (ggml's first dimension, contiguous) to `rows_out`."""
        sigma = 1.5 / rows_in**0.5 if scale is None else scale
        gauss = self._random.gauss
        values = [gauss(0.0, sigma) for _ in range(rows_in * rows_out)]
        return Tensor(name, (rows_in, rows_out), self._ftype, encode_floats(values, self._ftype))

    def norm(self, name: str, size: int) -> Tensor:
        return Tensor(name, (size,), F32, encode_floats([1.0] * size, F32))

    def zeros(self, name: str, size: int) -> Tensor:
        return Tensor(name, (size,), F32, bytes(4 * size))

    def norm_pair(self, name: str, size: int) -> tuple[Tensor, Tensor]:
        return self.norm(name + ".weight", size), self.zeros(name + ".bias", size)


def encode_floats(values: Sequence[float], ftype: int) -> bytes:
    """`values` as F32, F16 or Q8_0 (whose length must be a multiple of 32)."""
    if ftype == F32:
        return array("f", values).tobytes()
    if ftype == F16:
        return struct.pack(f"<{len(values)}e", *values)
    return b"".join(_q8_0_block(values[i : i + 32]) for i in range(0, len(values), 32))


def _q8_0_block(values: Sequence[float]) -> bytes:
    scale = max(map(abs, values)) / 127 or 1.0
    return struct.pack("<e32b", scale, *(round(v / scale) for v in values))


def _overridden(pairs: dict[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
    merged = {**pairs, **(changes or {})}
    return {key: value for key, value in merged.items() if value is not None}
