"""Turn ggml's blocks into numbers with torch, on whichever device the bytes are.

Each decoder below takes (num_blocks, block_bytes) uint8 and returns (num_blocks, elements) float32.
Multiplications and additions are separate operations in ggml's order, so that results are equal
bit for bit to the reference (ggml-quants.c and the `gguf` package). Layouts: ggml-common.h.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from engine.errors import ModelFormatError
from engine.gguf.types import BLOCKS, GGMLType

_CHUNK_ELEMENTS = 1 << 22  # bounds the float32 temporaries of one call to tens of MiB
_IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def check_supported(kind: GGMLType, name: str) -> None:
    """Raise ModelFormatError unless `dequantize` knows `kind`; `name` is the tensor's."""
    if kind not in _DECODERS:
        allowed = ", ".join(sorted(known.name for known in _DECODERS))
        raise ModelFormatError(
            f"tensor '{name}' has the type {kind.name}; this engine reads {allowed}: "
            "use the model in one of these, or the llama engine"
        )


def dequantize(raw: Tensor, kind: GGMLType) -> Tensor:
    """Decode whole blocks: raw (bytes,) uint8 → (elements,) float32 on the same device."""
    return _DECODERS[kind](raw.view(-1, BLOCKS[kind][1])).view(-1)


def dequantize_into(out: Tensor, raw: Tensor, kind: GGMLType) -> None:
    """Decode raw (bytes,) uint8 into the contiguous `out`, piece by piece, on `out`'s device.

    `raw` may be on the host while `out` is not: only the encoded bytes travel.
    """
    elements, size = BLOCKS[kind]
    flat = out.view(-1)
    step = _CHUNK_ELEMENTS // elements
    for first in range(0, flat.numel() // elements, step):
        piece = raw[first * size : (first + step) * size].to(out.device)
        flat[first * elements : (first + step) * elements].copy_(dequantize(piece, kind))


# -- fields of a block ------------------------------------------------------------------------


def _half(field: Tensor) -> Tensor:
    """(num_blocks, 2) bytes → (num_blocks, 1) float32."""
    return field.contiguous().view(torch.float16).float()


def _split_bits(field: Tensor, run: int, width: int) -> Tensor:
    """Unpack `width`-bit numbers that lie side by side in runs of `run` bytes.

    Bytes i of a run hold, from their low bits up, element i of the first plane, of the second, …
    (num_blocks, bytes) → (num_blocks, bytes / run * planes, run) uint8.
    """
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=field.device)
    runs = field.reshape(field.shape[0], -1, 1, run) >> shifts.view(1, 1, -1, 1)
    return (runs & ((1 << width) - 1)).view(field.shape[0], -1, run)


def _nibbles(field: Tensor, run: int = 16) -> Tensor:
    return _split_bits(field, run, 4)


def _high_bits(field: Tensor) -> Tensor:
    """4 bytes, bit i for element i → (num_blocks, 2, 16), 16 where set."""
    shifts = torch.arange(8, dtype=torch.uint8, device=field.device)
    return ((field.unsqueeze(-1) >> shifts & 1) << 4).view(-1, 2, 16)


def _scales_and_mins(field: Tensor) -> tuple[Tensor, Tensor]:
    """The 12 bytes of Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minimums, float32."""
    scale, minimum, both = field.view(-1, 3, 4).unbind(1)
    scales = torch.cat((scale & 63, both & 15 | scale >> 2 & 48), 1)
    minimums = torch.cat((minimum & 63, both >> 4 | minimum >> 2 & 48), 1)
    return scales.float(), minimums.float()


# -- plain numbers ----------------------------------------------------------------------------


def _f32(raw: Tensor) -> Tensor:
    return raw.view(torch.float32)


def _f16(raw: Tensor) -> Tensor:
    return raw.view(torch.float16).float()


def _bf16(raw: Tensor) -> Tensor:
    return raw.view(torch.bfloat16).float()


# -- blocks of 32 -----------------------------------------------------------------------------


def _q8_0(raw: Tensor) -> Tensor:
    return raw[:, 2:].view(torch.int8).float() * _half(raw[:, :2])


def _q4_0(raw: Tensor) -> Tensor:
    q = _nibbles(raw[:, 2:]).view(-1, 32).to(torch.int8) - 8
    return _half(raw[:, :2]) * q.float()


def _q4_1(raw: Tensor) -> Tensor:
    q = _nibbles(raw[:, 4:]).view(-1, 32)
    return _half(raw[:, :2]) * q.float() + _half(raw[:, 2:4])


def _q5_0(raw: Tensor) -> Tensor:
    q = (_nibbles(raw[:, 6:]) | _high_bits(raw[:, 2:6])).view(-1, 32).to(torch.int8) - 16
    return _half(raw[:, :2]) * q.float()


def _q5_1(raw: Tensor) -> Tensor:
    q = (_nibbles(raw[:, 8:]) | _high_bits(raw[:, 4:8])).view(-1, 32)
    return _half(raw[:, :2]) * q.float() + _half(raw[:, 2:4])


def _iq4_nl(raw: Tensor) -> Tensor:
    return _half(raw[:, :2]) * _iq4_values(_nibbles(raw[:, 2:])).view(-1, 32)


def _iq4_values(index: Tensor) -> Tensor:
    table = torch.tensor(_IQ4_VALUES, dtype=torch.float32, device=index.device)
    return table[index.int()]


# -- superblocks of 256 -----------------------------------------------------------------------


def _q2_k(raw: Tensor) -> Tensor:
    packed, d, dmin = raw[:, :16], _half(raw[:, 80:82]), _half(raw[:, 82:84])
    scale, minimum = d * (packed & 15).float(), dmin * (packed >> 4).float()
    q = _split_bits(raw[:, 16:80], 32, 2).view(-1, 16, 16).float()
    return (scale.unsqueeze(-1) * q - minimum.unsqueeze(-1)).view(-1, 256)


def _q3_k(raw: Tensor) -> Tensor:
    low, high = raw[:, 96:104], raw[:, 104:108]
    packed = _nibbles(low, 8).view(-1, 16) | _split_bits(high, 4, 2).view(-1, 16) << 4
    scale = _half(raw[:, 108:110]) * (packed.to(torch.int8) - 32).float()
    q = _split_bits(raw[:, 32:96], 32, 2).to(torch.int8)
    q -= (_split_bits(raw[:, :32], 32, 1) ^ 1).to(torch.int8) << 2  # a clear bit subtracts 4
    return (scale.unsqueeze(-1) * q.view(-1, 16, 16).float()).view(-1, 256)


def _q4_k(raw: Tensor) -> Tensor:
    return _scaled_k(raw, _nibbles(raw[:, 16:], 32))


def _q5_k(raw: Tensor) -> Tensor:
    return _scaled_k(raw, _nibbles(raw[:, 48:], 32) | _split_bits(raw[:, 16:48], 32, 1) << 4)


def _scaled_k(raw: Tensor, q: Tensor) -> Tensor:
    """d * scale * q - dmin * minimum, with one scale and minimum per 32 elements."""
    scales, minimums = _scales_and_mins(raw[:, 4:16].contiguous())
    scale, minimum = _half(raw[:, :2]) * scales, _half(raw[:, 2:4]) * minimums
    return (scale.unsqueeze(-1) * q.float() - minimum.unsqueeze(-1)).view(-1, 256)


def _q6_k(raw: Tensor) -> Tensor:
    scale = _half(raw[:, 208:210]) * raw[:, 192:208].view(torch.int8).float()
    low = _nibbles(raw[:, :128], 64).view(-1, 8, 32)
    q = (low | _split_bits(raw[:, 128:192], 32, 2) << 4).to(torch.int8) - 32
    return (scale.unsqueeze(-1) * q.view(-1, 16, 16).float()).view(-1, 256)


def _iq4_xs(raw: Tensor) -> Tensor:
    low = raw[:, 4:8].unsqueeze(-1) >> torch.tensor([0, 4], dtype=torch.uint8, device=raw.device)
    high = _split_bits(raw[:, 2:4], 1, 2).view(-1, 8)
    packed = (low & 15).view(-1, 8) | high << 4
    scale = _half(raw[:, :2]) * (packed.to(torch.int8) - 32).float()
    values = _iq4_values(_nibbles(raw[:, 8:])).view(-1, 8, 32)
    return (scale.unsqueeze(-1) * values).view(-1, 256)


_DECODERS: dict[GGMLType, Callable[[Tensor], Tensor]] = {
    GGMLType.F32: _f32,
    GGMLType.F16: _f16,
    GGMLType.BF16: _bf16,
    GGMLType.Q8_0: _q8_0,
    GGMLType.Q4_0: _q4_0,
    GGMLType.Q4_1: _q4_1,
    GGMLType.Q5_0: _q5_0,
    GGMLType.Q5_1: _q5_1,
    GGMLType.Q2_K: _q2_k,
    GGMLType.Q3_K: _q3_k,
    GGMLType.Q4_K: _q4_k,
    GGMLType.Q5_K: _q5_k,
    GGMLType.Q6_K: _q6_k,
    GGMLType.IQ4_NL: _iq4_nl,
    GGMLType.IQ4_XS: _iq4_xs,
}
