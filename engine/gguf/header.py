"""What a GGUF header says: typed metadata, tensors, and the figures that planners ask for.

Knows the meaning of keys; knows nothing of bytes (`reader.py`) or of what is allowed
(`validate.py`). A figure whose key is missing is 0, so that questions about adapters and
projectors have answers too.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from engine.gguf.types import FILE_TYPES, GGMLType, ValueType


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """An array too long to keep: its element type and length."""

    type: ValueType
    length: int


Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...] | ArrayInfo

TOKENS = "tokenizer.ggml.tokens"

_ENCODER_ARCHITECTURES = frozenset(
    {
        "bert",
        "modern-bert",
        "neo-bert",
        "eurobert",
        "nomic-bert",
        "nomic-bert-moe",
        "jina-bert-v2",
        "jina-bert-v3",
        "gemma-embedding",
        "llama-embed",
        "t5encoder",
    }
)


_CLASSIFIER = ("cls.output.weight", "cls.weight")
_INFILL = tuple(  # newer names and older ones (GGUF specification; llama.cpp, llama-vocab.cpp)
    (f"tokenizer.ggml.fim_{short}_token_id", f"tokenizer.ggml.{long}_token_id")
    for short, long in (("pre", "prefix"), ("suf", "suffix"), ("mid", "middle"))
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `shape` is in ggml's order: the first dimension is contiguous."""

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    offset: int  # bytes from the start of the data section
    nbytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """Everything before the tensor data of one file."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_offset: int
    file_size: int

    # -- access by key ----------------------------------------------------------------------

    def text(self, key: str) -> str:
        """The string under `key`, or empty."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def integer(self, suffix: str) -> int:
        """The integer under `<architecture>.<suffix>`; of an array the largest; else 0."""
        return max(self.integers(suffix), default=0)

    def integers(self, suffix: str) -> tuple[int, ...]:
        """The integers under `<architecture>.<suffix>`: one for a scalar, none when missing."""
        value = self.metadata.get(f"{self.architecture}.{suffix}")
        values = value if isinstance(value, tuple) else (value,)
        return tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool))

    def array_length(self, key: str) -> int | None:
        """Length of the array under `key`, kept or not; None when there is none."""
        value = self.metadata.get(key)
        if isinstance(value, ArrayInfo):
            return value.length
        return len(value) if isinstance(value, tuple) else None

    def tensor(self, name: str) -> TensorInfo | None:
        return self._tensors_by_name.get(name)

    # -- identity ---------------------------------------------------------------------------

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")

    @property
    def name(self) -> str:
        return self.text("general.name")

    @property
    def kind(self) -> str:
        """general.type: "model", "adapter", "mmproj", …"""
        return self.text("general.type") or "model"

    @property
    def is_adapter(self) -> bool:
        return self.kind == "adapter"

    @property
    def is_projector(self) -> bool:
        """An image or audio encoder that accompanies a language model."""
        if self.kind in {"projector", "mmproj"} or self.architecture == "clip":
            return True
        return self.integer("vision.block_count") > 0 and self.block_count == 0

    @property
    def is_eye(self) -> bool:
        """A projector with an image encoder, of the kind that llama.cpp runs."""
        return self.architecture == "clip" and self.metadata.get("clip.has_vision_encoder") is True

    @property
    def is_embedding(self) -> bool:
        """Made to embed or to score: it states how to pool, is an encoder, or a classifier."""
        if self.pooling_type is not None or self.is_reranker:
            return True
        return self.architecture in _ENCODER_ARCHITECTURES

    @property
    def is_reranker(self) -> bool:
        """Made to score a document for a query: it has a classifier. Files of cross-encoders need
        not state how to pool, but those of other kinds of models have no such tensors."""
        return any(self.tensor(name) is not None for name in _CLASSIFIER)

    @property
    def has_infill(self) -> bool:
        """Whether it names the tokens that open prefix, suffix and middle of a text to fill in."""
        named = [
            {key for key in keys if isinstance(self.metadata.get(key), int)} for keys in _INFILL
        ]
        return all(named)

    @property
    def quantization_level(self) -> str:
        """As Ollama prints it, e.g. Q4_K_M; without general.file_type the commonest tensor type."""
        file_type = self.metadata.get("general.file_type")
        if isinstance(file_type, int) and file_type in FILE_TYPES:
            return FILE_TYPES[file_type]
        sizes: Counter[GGMLType] = Counter()
        for tensor in self.tensors:
            sizes[tensor.type] += tensor.nbytes
        return sizes.most_common(1)[0][0].name if sizes else "unknown"

    @cached_property
    def parameter_count(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)

    # -- shape ------------------------------------------------------------------------------

    @property
    def block_count(self) -> int:
        return self.integer("block_count")

    @property
    def context_length(self) -> int:
        """Tokens the model was trained for."""
        return self.integer("context_length")

    @property
    def embedding_length(self) -> int:
        return self.integer("embedding_length")

    @property
    def feed_forward_length(self) -> int:
        return self.integer("feed_forward_length")

    @property
    def expert_count(self) -> int:
        return self.integer("expert_count")

    @property
    def head_count(self) -> int:
        """Attention heads; of models whose layers differ, the largest number."""
        return self.integer("attention.head_count")

    @property
    def head_count_kv(self) -> int:
        return max(self.kv_heads_per_layer, default=0)

    @property
    def kv_heads_per_layer(self) -> tuple[int, ...]:
        """Key and value heads of each layer; 0 where a layer keeps no attention cache."""
        heads = self.integers("attention.head_count_kv") or self.integers("attention.head_count")
        if len(heads) == 1:
            return heads * self.block_count
        return heads

    @property
    def key_length(self) -> int:
        """Elements of one key head."""
        return self.integer("attention.key_length") or self._even_share

    @property
    def value_length(self) -> int:
        return self.integer("attention.value_length") or self._even_share

    @property
    def rope_dimension_count(self) -> int:
        return self.integer("rope.dimension_count") or self.key_length

    @property
    def sliding_window(self) -> int:
        """Tokens that windowed layers see; 0 where the file does not say."""
        return self.integer("attention.sliding_window")

    @property
    def pooling_type(self) -> int | None:
        """llama.cpp's number: 0 none, 1 mean, 2 cls, 3 last, 4 rank; None when not stated."""
        found = self.integers("pooling_type")
        return found[0] if found else None

    @property
    def vocab_size(self) -> int:
        return self.array_length(TOKENS) or self.integer("vocab_size")

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the default chat template."""
        return self.text("tokenizer.chat_template") or None

    def kv_bytes_per_token(self, type_bytes: float = 2) -> int:
        """Bytes of key and value cache for one token of context, over all layers.

        type_bytes  bytes per element: 2 for f16, 34/32 for q8_0. An upper bound for models with
                    a sliding window, whose windowed layers stop growing.
        """
        elements = sum(self.kv_heads_per_layer) * (self.key_length + self.value_length)
        return math.ceil(elements * type_bytes)

    @property
    def _even_share(self) -> int:
        return self.embedding_length // self.head_count if self.head_count else 0

    @cached_property
    def _tensors_by_name(self) -> dict[str, TensorInfo]:
        return {tensor.name: tensor for tensor in self.tensors}
