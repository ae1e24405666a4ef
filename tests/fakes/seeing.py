"""Random projectors that llama.cpp's multimodal library loads, and pictures to show to them.

Beside `tiny_llama_gguf` of the same `embd` such a projector makes a model that sees: what it says
is noise, but the same noise for the same picture.
"""

import random
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fakes.gguf_builder import (
    F32,
    FLOAT32,
    INT32,
    Tensor,
    Typed,
    build_gguf,
    encode_floats,
    tiny_llama_bytes,
)

PATCH = 14  # pixels


def tiny_qwen2vl_gguf(path: Path, **shape: Any) -> Path:
    """Write a random language model with M-RoPE; `shape` as in `tiny_llama_bytes`."""
    path.write_bytes(tiny_llama_bytes(metadata=_QWEN2VL, **shape))
    return path


_LLAMA = {
    "block_count": 2,
    "context_length": 512,
    "embedding_length": 64,
    "feed_forward_length": 128,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.dimension_count": 16,
    "rope.freq_base": 10000.0,
}
_QWEN2VL = {
    "general.architecture": "qwen2vl",
    **{f"llama.{key}": None for key in (*_LLAMA, "vocab_size")},
    **{f"qwen2vl.{key}": value for key, value in _LLAMA.items()},
    "qwen2vl.rope.dimension_sections": Typed(INT32, items=[2, 3, 3, 0]),
}


def tiny_projector_gguf(path: Path, **shape: Any) -> Path:
    """Write a projector; `shape` as in `tiny_projector_bytes`."""
    path.write_bytes(tiny_projector_bytes(**shape))
    return path


def tiny_projector_bytes(
    *,
    kind: str = "mlp",
    embd: int = 64,
    side: int = 56,
    patch: int = PATCH,
    width: int = 32,
    layers: int = 2,
    heads: int = 4,
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """The bytes of a random image encoder with its projector.

    kind   "mlp" (LLaVA), "gemma3", which looks at a whole picture at once (not causal), or
           "qwen2vl_merger", whose pictures are as large as they are and have positions in two
           dimensions; it goes with `tiny_qwen2vl_gguf`
    embd   of the language model; side, patch   pixels; width, heads, layers   of the encoder
    A value of None in `metadata` removes the key.
    """
    pairs: dict[str, Any] = {
        "general.architecture": "clip",
        "general.type": "mmproj",
        "general.name": "Tiny Eye",
        "general.file_type": 0,
        "clip.has_vision_encoder": True,
        "clip.projector_type": kind,
        "clip.use_gelu": True,
        "clip.vision.image_size": side,
        "clip.vision.patch_size": patch,
        "clip.vision.embedding_length": width,
        "clip.vision.feed_forward_length": 2 * width,
        "clip.vision.block_count": layers,
        "clip.vision.projection_dim": embd,
        "clip.vision.attention.head_count": heads,
        "clip.vision.attention.layer_norm_epsilon": 1e-5,
        "clip.vision.image_mean": Typed(FLOAT32, items=[0.5, 0.5, 0.5]),
        "clip.vision.image_std": Typed(FLOAT32, items=[0.5, 0.5, 0.5]),
        **(metadata or {}),
    }
    pairs = {key: value for key, value in pairs.items() if value is not None}
    draw = _Draw(seed)
    patches = (side // patch) ** 2
    tensors = [
        draw("v.patch_embd.weight", patch, patch, 3, width, scale=0.2),
        draw("v.position_embd.weight", width, patches, scale=0.5),
    ]
    for layer in range(layers):
        block = f"v.blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            tensors += [
                draw(f"{block}{name}.weight", width, width),
                draw(f"{block}{name}.bias", width),
            ]
        tensors += [
            *draw.norm(block + "ln1", width),
            *draw.norm(block + "ln2", width),
            draw(block + "ffn_up.weight", width, 2 * width),
            draw(block + "ffn_up.bias", 2 * width),
            draw(block + "ffn_down.weight", 2 * width, width),
            draw(block + "ffn_down.bias", width),
        ]
    return build_gguf(pairs, tensors + _projection(kind, draw, width, embd))


def _projection(kind: str, draw: "_Draw", width: int, embd: int) -> list[Tensor]:
    if kind == "qwen2vl_merger":
        return [
            *draw.norm("v.post_ln", width),
            draw("v.patch_embd.weight.1", PATCH, PATCH, 3, width, scale=0.2),
            draw("mm.0.weight", 4 * width, 4 * width),
            draw("mm.0.bias", 4 * width),
            draw("mm.2.weight", 4 * width, embd, scale=0.5),
            draw("mm.2.bias", embd),
        ]
    if kind == "gemma3":
        return [
            *draw.norm("v.post_ln", width),
            draw("mm.input_projection.weight", embd, width, scale=0.5),
            draw.norm("mm.soft_emb_norm", width)[0],
        ]
    return [
        draw("mm.0.weight", width, embd),
        draw("mm.0.bias", embd),
        draw("mm.2.weight", embd, embd, scale=0.5),
        draw("mm.2.bias", embd),
    ]


class _Draw:
    """Seeded random tensors, each drawn in the order it is asked for."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __call__(self, name: str, *shape: int, scale: float | None = None) -> Tensor:
        sigma = 1.5 / shape[0] ** 0.5 if scale is None else scale
        count = 1
        for size in shape:
            count *= size
        values = [self._random.gauss(0.0, sigma) for _ in range(count)]
        return Tensor(name, shape, F32, encode_floats(values, F32))

    def norm(self, name: str, size: int) -> tuple[Tensor, Tensor]:
        ones = Tensor(name + ".weight", (size,), F32, encode_floats([1.0] * size, F32))
        return ones, Tensor(name + ".bias", (size,), F32, bytes(4 * size))


# -- pictures --------------------------------------------------------------------------------


def png(width: int = 40, height: int = 30, *, seed: int = 0) -> bytes:
    """A picture of coloured blocks, of its own for each seed."""
    rng = random.Random(seed)
    colours = [[rng.randbytes(3) for _ in range(8)] for _ in range(8)]
    rows = bytearray()
    for y in range(height):
        line = colours[y * 8 // height]
        rows += b"\0" + b"".join(line[x * 8 // width] for x in range(width))
    return png_of(width, height, zlib.compress(bytes(rows)))


def png_of(width: int, height: int, idat: bytes, *, colour: int = 2) -> bytes:
    """A PNG with this header and these compressed rows, whether they agree or not."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", idat), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bmp(width: int = 40, height: int = 30, *, seed: int = 0) -> bytes:
    """A picture without compression."""
    stride = (3 * width + 3) // 4 * 4
    pixels = random.Random(seed).randbytes(stride * height)
    head = struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54)
    info = (40, width, height, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    return head + struct.pack("<IiiHHIIiiII", *info) + pixels
