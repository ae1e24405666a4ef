"""Would llama.cpp load this file, or abort on it? Checked from the header alone.

llama.cpp answers many impossible figures with an assertion, which ends its process: those are
refused here, each with the reason. It does not decide which architectures are supported; an
engine does. Checks cite what they prevent in llama.cpp's sources.
"""

from pathlib import Path

from engine.errors import ModelFormatError
from engine.gguf.clip import check_projector
from engine.gguf.header import TOKENS, ArrayInfo, Header
from engine.gguf.reader import LIMITS, Limits, read_header
from engine.gguf.types import ValueType

_MAX_BLOCKS = 512  # LLAMA_MAX_LAYERS
_MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
_MAX_DIMENSION = 1 << 24
_MAX_CONTEXT = 1 << 31
_UNSET_TOKEN = 0xFFFFFFFF  # -1, written by converters for "none"
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_POOLINGS = range(5)

# without attention heads by design (llm_arch_is_recurrent)
_RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})

# their graphs assert that keys and values have heads of one size; latent attention has not
_EVEN_HEADS = frozenset(
    {
        "bert",
        "cohere2",
        "command-r",
        "exaone",
        "falcon",
        "glm4",
        "glm4moe",
        "gpt2",
        "granite",
        "internlm2",
        "llama",
        "llama4",
        "mistral3",
        "nemotron",
        "olmo2",
        "phi2",
        "phi3",
        "qwen2",
        "qwen2moe",
        "qwen2vl",
        "qwen3",
        "qwen3moe",
        "qwen3next",
        "qwen3vl",
        "seed_oss",
        "smollm3",
        "stablelm",
        "starcoder2",
    }
)
_EPSILONS = ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon")

# padding and fill-in-the-middle ids out of range are ignored by llama.cpp, and common
_SPECIAL_TOKENS = ("bos", "eos", "eot", "eom", "unknown", "seperator", "cls", "mask")
_DEFAULT_BOS = {"llama": 1, "gpt2": 11, "bert": 101}
_DEFAULT_EOS = {"llama": 2, "gpt2": 11, "t5": 1}


def validate(path: Path, limits: Limits = LIMITS) -> Header:
    """Read the header at `path` and check all of it; raises ModelFormatError with the reason."""
    header = read_header(path, limits)
    _check_not_split(header)
    if not header.tensors:
        raise ModelFormatError("the file holds no tensors: it is a vocabulary, not a model")
    if header.is_adapter:
        _check_adapter(header)
    elif header.is_projector:
        check_projector(header)
    else:
        _check_shape(header)
        _check_heads(header)
        _check_experts(header)
        _check_tokenizer(header)
    return header


def _check_not_split(header: Header) -> None:
    count = header.metadata.get("split.count")
    if isinstance(count, int) and count > 1:
        raise ModelFormatError(
            f"this is one of {count} parts of a split model; "
            "join them with llama.cpp's `llama-gguf-split --merge` first"
        )


def _check_adapter(header: Header) -> None:
    kind = header.text("adapter.type")
    if kind != "lora":
        raise ModelFormatError(f"the adapter is of type {kind!r}; only 'lora' is allowed")
    if not isinstance(header.metadata.get("adapter.lora.alpha"), float):
        raise ModelFormatError("the adapter has no number under 'adapter.lora.alpha'")
    names = {tensor.name for tensor in header.tensors}
    for name in names:
        base, _, half = name.rpartition(".")
        other = {"lora_a": "lora_b", "lora_b": "lora_a"}.get(half)
        if other is None and not name.endswith("_norm.weight"):
            raise ModelFormatError(
                f"the adapter's tensor '{name}' ends in neither lora_a nor lora_b"
            )
        if other is not None and f"{base}.{other}" not in names:
            raise ModelFormatError(f"the adapter's tensor '{name}' has no '{other}' beside it")


def _check_shape(header: Header) -> None:
    _check_range(header, "block_count", 1, _MAX_BLOCKS)
    _check_range(header, "embedding_length", 1, _MAX_DIMENSION)
    _check_range(header, "context_length", 1, _MAX_CONTEXT)
    arch = header.architecture
    scaling = header.metadata.get(f"{arch}.rope.scaling.type", "none")
    if scaling not in _ROPE_SCALINGS:
        raise ModelFormatError(
            f"{arch}.rope.scaling.type is {scaling!r}; allowed: {', '.join(_ROPE_SCALINGS)}"
        )
    if header.pooling_type is not None and header.pooling_type not in _POOLINGS:
        raise ModelFormatError(f"{arch}.pooling_type is {header.pooling_type}; 0 to 4 are allowed")
    for suffix in _EPSILONS:
        epsilon = header.metadata.get(f"{arch}.attention.{suffix}", 0.0)
        if not isinstance(epsilon, float) or not 0 <= epsilon < 1:
            raise ModelFormatError(f"{arch}.attention.{suffix} is {epsilon!r}; 0 to 1 is allowed")
    if header.integer("nextn_predict_layers") > header.block_count:
        raise ModelFormatError(f"{arch}.nextn_predict_layers is larger than the block count")


def _check_range(header: Header, suffix: str, low: int, high: int) -> None:
    key = f"{header.architecture}.{suffix}"
    value = header.metadata.get(key)
    if value is None:
        raise ModelFormatError(f"the key '{key}' is missing: convert the model again")
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ModelFormatError(f"{key} is {value!r}; an integer from {low} to {high} is allowed")


def _check_heads(header: Header) -> None:
    heads = _per_layer(header, "attention.head_count")
    kv_heads = _per_layer(header, "attention.head_count_kv") or heads
    if header.architecture in _RECURRENT or not heads:
        return
    if not any(heads):
        raise ModelFormatError(
            f"{header.architecture}.attention.head_count is 0; at least 1 is needed"
        )
    if len(set(kv_heads)) == 1 and not any(kv_heads):
        raise ModelFormatError(
            f"{header.architecture}.attention.head_count_kv is 0; at least 1 is needed"
        )
    for layer, (count, kv_count) in enumerate(zip(heads, kv_heads, strict=True)):
        # ggml multiplies grouped heads and asserts that the groups are whole
        if kv_count and count % kv_count:
            raise ModelFormatError(
                f"layer {layer} has {count} heads over {kv_count} key-value heads; "
                "the first must be a multiple of the second"
            )
    _check_head_sizes(header)


def _per_layer(header: Header, suffix: str) -> tuple[int, ...]:
    """The counts of all layers; () when the key is missing. Each is 0 to 65,535."""
    key = f"{header.architecture}.{suffix}"
    if key not in header.metadata:
        return ()
    counts = header.integers(suffix)
    if len(counts) == 1 and not isinstance(header.metadata[key], tuple):
        counts *= header.block_count
    if len(counts) != header.block_count:
        raise ModelFormatError(
            f"{key} holds {len(counts)} integers for {header.block_count} layers"
        )
    if not all(0 <= count <= 65_535 for count in counts):
        raise ModelFormatError(f"{key} holds {max(counts)}; 0 to 65535 are allowed")
    return counts


def _check_head_sizes(header: Header) -> None:
    sizes = {
        "the key head size": header.key_length,
        "the value head size": header.value_length,
        "rope.dimension_count": header.rope_dimension_count,
    }
    for what, size in sizes.items():
        if not 0 < size <= _MAX_DIMENSION:
            raise ModelFormatError(f"{what} is {size}; 1 to {_MAX_DIMENSION} are allowed")
    if header.architecture in _EVEN_HEADS and header.key_length != header.value_length:
        raise ModelFormatError(
            f"key heads have {header.key_length} elements and value heads {header.value_length}; "
            f"{header.architecture} needs them equal"
        )
    # the rotation works on pairs, inside the head
    if header.rope_dimension_count % 2:
        raise ModelFormatError(
            f"{header.rope_dimension_count} dimensions are to be rotated; an even number is needed"
        )


def _check_experts(header: Header) -> None:
    experts = header.integer("expert_count")
    used = max(_per_layer(header, "expert_used_count"), default=0)
    if not 0 <= experts <= _MAX_EXPERTS:
        raise ModelFormatError(f"expert_count is {experts}; 0 to {_MAX_EXPERTS} are allowed")
    if experts <= 1 and header.architecture.startswith("hunyuan"):
        return  # written by its converter, and ignored
    if used > experts or (experts and used < 1):
        raise ModelFormatError(
            f"expert_used_count is {used} of {experts} experts; "
            "between 1 and the number of experts is allowed, 0 without experts"
        )
    _check_expert_groups(header, experts)


def _check_expert_groups(header: Header, experts: int) -> None:
    groups = header.integer("expert_group_count")
    used = header.integer("expert_group_used_count")
    whole = groups < experts and experts % max(groups, 1) == 0
    if groups and not whole:
        raise ModelFormatError(f"{experts} experts cannot be divided into {groups} groups")
    if groups > 1 and not 0 < used < groups:
        raise ModelFormatError(f"expert_group_used_count is {used} of {groups} groups")


# -- vocabulary ------------------------------------------------------------------------------


def _check_tokenizer(header: Header) -> None:
    model = header.text("tokenizer.ggml.model")
    if not model:
        raise ModelFormatError(
            "the key 'tokenizer.ggml.model' is missing: the model cannot read text"
        )
    if model in {"no_vocab", "none"}:
        raise ModelFormatError(f"the tokenizer is '{model}': the model cannot read text")
    vocab = _string_array_length(header, TOKENS)
    if not vocab:
        raise ModelFormatError(f"'{TOKENS}' is missing or empty: the model cannot read text")
    embedding = header.tensor("token_embd.weight")
    if embedding is not None and embedding.shape[-1] != vocab:
        raise ModelFormatError(
            f"the vocabulary has {vocab} tokens, token_embd.weight has rows for "
            f"{embedding.shape[-1]}: convert the model again"
        )
    _check_parallel_arrays(header, vocab)
    _check_special_tokens(header, model, vocab)
    if model == "gpt2" and header.text("tokenizer.ggml.pre") != "kimi-k2":
        _string_array_length(header, "tokenizer.ggml.merges", required=True)


def _check_parallel_arrays(header: Header, vocab: int) -> None:
    allowed = {
        "tokenizer.ggml.scores": {ValueType.FLOAT32, ValueType.INT32},
        "tokenizer.ggml.token_type": {ValueType.INT32},
    }
    for key, types in allowed.items():
        value = header.metadata.get(key)
        if value is None:
            continue
        length = header.array_length(key)
        if length is None or length < vocab:
            raise ModelFormatError(f"'{key}' has {length} entries for {vocab} tokens")
        if isinstance(value, ArrayInfo) and value.type not in types:
            raise ModelFormatError(f"'{key}' holds {value.type.name}, which is not allowed there")


def _string_array_length(header: Header, key: str, required: bool = False) -> int:
    value = header.metadata.get(key)
    if value is None and not required:
        return 0
    if isinstance(value, ArrayInfo) and value.type is ValueType.STRING:
        return value.length
    if isinstance(value, tuple) and all(isinstance(item, str) for item in value):
        return len(value)
    raise ModelFormatError(f"'{key}' is not an array of strings")


def _check_special_tokens(header: Header, model: str, vocab: int) -> None:
    ids = {name: _special_token(header, name) for name in _SPECIAL_TOKENS}
    for name, token in ids.items():
        if token is not None and token >= vocab:
            raise ModelFormatError(
                f"the {name} token is {token}, the vocabulary has {vocab}: convert the model again"
            )
    # the tokenizer asserts that a token it shall add exists
    for name, defaults in (("bos", _DEFAULT_BOS), ("eos", _DEFAULT_EOS)):
        wanted = header.metadata.get(f"tokenizer.ggml.add_{name}_token") is True
        token = ids[name]
        if wanted and (defaults.get(model, vocab) if token is None else token) >= vocab:
            raise ModelFormatError(
                f"the tokenizer shall add a {name} token, but the file names none"
            )


def _special_token(header: Header, name: str) -> int | None:
    value = header.metadata.get(f"tokenizer.ggml.{name}_token_id")
    if value is None or value == _UNSET_TOKEN:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ModelFormatError(f"tokenizer.ggml.{name}_token_id is {value!r}, not a token id")
    return value
