"""Model files with random weights at the shapes of well-known small models.

Speed depends on shapes, quantization and vocabulary size, not on what the weights say, so the
benchmarks need no download. Knows how a GGUF file of the two architectures is laid out; knows
nothing of servers or measuring. Files are deterministic and kept outside the repository.

What is like the real files: tensor shapes, a tied token embedding stored as Q8_0 in both
quantizations (what llama-quantize does when rows do not divide by 256), F32 norms and biases, a
byte-level BPE vocabulary of full size with merges, special tokens, a ChatML template. What is
not: weights are noise, merges are invented. Rows of special tokens are zero, so their logits are
exactly zero and lie far below the best of a large vocabulary: generation does not stop early.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import string
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

QUANTS = ("Q4_0", "Q8_0")
FLOATS = "F16"  # not quantized: for engines that compute in floating point
BLOCK = 32  # weights per block, both in Q4_0 and in Q8_0
LAYOUT = 1  # part of the file name; raise it when the same shape would get other weights
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' "
    "+ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the speed of a dense decoder. Every head is 64 wide in both shapes."""

    name: str
    like: str  # the public model whose shape this is
    arch: str  # GGUF architecture
    tokenizer: str  # GGUF pre-tokenizer
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocab: int
    context: int  # tokens
    rope_base: float
    norm_epsilon: float
    qkv_bias: bool

    @property
    def kv_width(self) -> int:
        return self.hidden // self.heads * self.kv_heads


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            "135m", "SmolLM2-135M", "llama", "smollm",
            layers=30, hidden=576, heads=9, kv_heads=3, feed_forward=1536, vocab=49152,
            context=8192, rope_base=100_000.0, norm_epsilon=1e-5, qkv_bias=False,
        ),
        Shape(
            "0.5b", "Qwen2.5-0.5B", "qwen2", "qwen2",
            layers=24, hidden=896, heads=14, kv_heads=2, feed_forward=4864, vocab=151936,
            context=32768, rope_base=1_000_000.0, norm_epsilon=1e-6, qkv_bias=True,
        ),
    )
}  # fmt: skip

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def default_folder() -> Path:
    """Where model files and native builds are kept: `hearth-bench` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "hearth-bench"


def ensure(shape: Shape, quant: str, folder: Path) -> Path:
    """The model file of `shape` in `quant` (QUANTS or FLOATS), written first if it is missing."""
    path = folder / f"{shape.name}-{quant}-v{LAYOUT}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        _write(shape, quant, unfinished)
        unfinished.rename(path)
    return path


def words(count: int, seed: int) -> str:
    """A text of exactly `count` tokens in every shape's vocabulary: one-letter words.

    Two seeds share no prefix worth caching: the chance of k equal first tokens is 26 ** -k.
    """
    rng = random.Random(seed)
    return "".join(f" {rng.choice(string.ascii_lowercase)}" for _ in range(count))


def _write(shape: Shape, quant: str, path: Path) -> None:
    writer = gguf.GGUFWriter(path, shape.arch)
    _add_facts(writer, shape, quant)
    _add_vocabulary(writer, shape)
    rng = np.random.default_rng(seed=shape.layers * shape.hidden)
    for name, rows, columns in _matrices(shape):
        embedding = name == "token_embd.weight"
        stored_as = "Q8_0" if embedding and quant != FLOATS else quant
        weights = _ENCODERS[stored_as](rng, rows, columns)
        if embedding:
            weights[-len(SPECIAL_TOKENS) :] = 0  # in Q8_0 a scale of zero, too
        writer.add_tensor(name, weights, raw_dtype=gguf.GGMLQuantizationType[stored_as])
    for name, width, value in _vectors(shape):
        writer.add_tensor(name, np.full(width, value, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_facts(writer: gguf.GGUFWriter, shape: Shape, quant: str) -> None:
    writer.add_name(f"random weights at the shape of {shape.like}")
    writer.add_size_label(shape.name.upper())
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{quant}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_vocab_size(shape.vocab)


def _add_vocabulary(writer: gguf.GGUFWriter, shape: Shape) -> None:
    tokens, merges = _byte_level_bpe(shape.vocab - len(SPECIAL_TOKENS), seed=shape.vocab)
    kinds = [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.CONTROL] * len(SPECIAL_TOKENS)
    end_of_text = len(tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(shape.tokenizer)
    writer.add_token_list([*tokens, *SPECIAL_TOKENS])
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(end_of_text)
    writer.add_eos_token_id(end_of_text + SPECIAL_TOKENS.index("<|im_end|>"))
    writer.add_pad_token_id(end_of_text)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)


def _byte_level_bpe(size: int, seed: int) -> tuple[list[str], list[str]]:
    """`size` tokens (the 256 bytes first) and the merges that build all but those.

    Bytes are spelled as in GPT-2's vocabulary: printable ones as themselves, the others shifted
    to code points from 256 on, which makes the blank a "Ġ".
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    shifted = iter(range(256, 512))
    tokens = [chr(byte if byte in printable else next(shifted)) for byte in range(256)]
    blank = tokens[ord(" ")]
    merges = [f"{blank} {letter}" for letter in string.ascii_lowercase]
    inner = list(string.ascii_lowercase)
    starts = [blank + letter for letter in string.ascii_lowercase]
    tokens += starts
    known = set(tokens)
    rng = random.Random(seed)
    while len(tokens) < size:
        group = starts if rng.random() < 0.6 else inner
        left = group[int(len(group) * rng.random() ** 2)]  # squares: early tokens are frequent
        right = inner[int(len(inner) * rng.random() ** 3)]
        if len(left) + len(right) > 12 or left + right in known:
            continue
        merges.append(f"{left} {right}")
        group.append(left + right)
        tokens.append(left + right)
        known.add(left + right)
    return tokens, merges


def _matrices(shape: Shape) -> list[tuple[str, int, int]]:
    """Name, rows, columns of every quantized tensor; rows are outputs."""
    found = [("token_embd.weight", shape.vocab, shape.hidden)]
    for layer in range(shape.layers):
        found += [
            (f"blk.{layer}.attn_q.weight", shape.hidden, shape.hidden),
            (f"blk.{layer}.attn_k.weight", shape.kv_width, shape.hidden),
            (f"blk.{layer}.attn_v.weight", shape.kv_width, shape.hidden),
            (f"blk.{layer}.attn_output.weight", shape.hidden, shape.hidden),
            (f"blk.{layer}.ffn_gate.weight", shape.feed_forward, shape.hidden),
            (f"blk.{layer}.ffn_up.weight", shape.feed_forward, shape.hidden),
            (f"blk.{layer}.ffn_down.weight", shape.hidden, shape.feed_forward),
        ]
    return found


def _vectors(shape: Shape) -> list[tuple[str, int, float]]:
    """Name, width, value of every F32 tensor."""
    found = [("output_norm.weight", shape.hidden, 1.0)]
    for layer in range(shape.layers):
        found += [
            (f"blk.{layer}.attn_norm.weight", shape.hidden, 1.0),
            (f"blk.{layer}.ffn_norm.weight", shape.hidden, 1.0),
        ]
        if shape.qkv_bias:
            found += [
                (f"blk.{layer}.attn_q.bias", shape.hidden, 0.01),
                (f"blk.{layer}.attn_k.bias", shape.kv_width, 0.01),
                (f"blk.{layer}.attn_v.bias", shape.kv_width, 0.01),
            ]
    return found


def _f16(rng: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.float16]:
    """(rows, columns) uniform around zero, rows of a norm of about 1."""
    weights = rng.random((rows, columns), dtype=np.float32) - np.float32(0.5)
    return (weights * np.float32(math.sqrt(12 / columns))).astype(np.float16)


def _q4_0(rng: np.random.Generator, rows: int, columns: int) -> Bytes:
    """(rows, columns / 32 * 18) bytes: per block a half-precision scale and 32 nibbles."""
    return _random_blocks(rng, rows, columns, payload=16, deviation=math.sqrt((16**2 - 1) / 12))


def _q8_0(rng: np.random.Generator, rows: int, columns: int) -> Bytes:
    """(rows, columns / 32 * 34) bytes: per block a half-precision scale and 32 signed bytes."""
    return _random_blocks(rng, rows, columns, payload=32, deviation=math.sqrt((256**2 - 1) / 12))


def _random_blocks(
    rng: np.random.Generator, rows: int, columns: int, payload: int, deviation: float
) -> Bytes:
    """Blocks of uniform integers (`deviation` is theirs), scaled so that a row keeps a norm of 1.

    The sign of the scale is random, because a block's integers are not centred on zero.
    """
    blocks = np.empty((rows, columns // BLOCK, 2 + payload), dtype=np.uint8)
    scale = np.float16(1 / (deviation * math.sqrt(columns)))
    signs = rng.integers(0, 2, size=blocks.shape[:2]) * 2 - 1
    blocks[:, :, :2] = (signs * scale).astype(np.float16)[..., None].view(np.uint8)
    blocks[:, :, 2:] = np.frombuffer(
        rng.bytes(rows * (columns // BLOCK) * payload), dtype=np.uint8
    ).reshape(rows, columns // BLOCK, payload)
    return blocks.reshape(rows, -1)


_ENCODERS = {"F16": _f16, "Q4_0": _q4_0, "Q8_0": _q8_0}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write model files with random weights")
    parser.add_argument("--models", type=Path, default=default_folder())
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--quants", nargs="+", choices=(*QUANTS, FLOATS), default=list(QUANTS))
    options = parser.parse_args()
    for name in options.shapes:
        for quant in options.quants:
            path = ensure(SHAPES[name], quant, options.models)
            print(f"{path.stat().st_size / 2**20:8.1f} MiB  {path}")


if __name__ == "__main__":
    main()
