"""Weights that stay quantized: ggml's blocks taken apart into planes that a GPU can load widely.

A block of 18 or 210 bytes is aligned to 2 bytes only, so its parts are stored side by side instead:
numbers with numbers, scales with scales. No bit is lost or rounded, the size hardly grows (Q4_K:
4.5 to 4.63 bits per weight; Q6_K becomes 8.56, its numbers widened to bytes), and every type obeys

    weight = (scale * sub_scale) * (q - offset) - (min_scale * sub_min)

Knows nothing of files or kernels; the multiplication is `kernels/planar_linear.py`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.gguf.types import BLOCKS, GGMLType

PLANAR_TYPES = (GGMLType.Q8_0, GGMLType.Q4_0, GGMLType.Q4_K, GGMLType.Q6_K)


@dataclass(frozen=True, slots=True)
class PlanarWeight:
    """One matrix (out_features, in_features), rows contiguous, K = in_features.

    q           (N, K) int8, or (N, K / 2) uint8: byte j of a run of `pair` bytes holds, of a run
                of 2 * pair numbers, number j low and number j + pair high
    scale       (N, K / span) float16, span 32 or 256
    sub_scale   (N, K / group) int8 or uint8, group 16 or 32; None: 1, and group is span
    min_scale   (N, K / span) float16, sub_min (N, K / group) uint8; None: 0
    """

    q: Tensor
    scale: Tensor
    sub_scale: Tensor | None = None
    min_scale: Tensor | None = None
    sub_min: Tensor | None = None
    offset: int = 0
    pair: int = 0  # 0: q is int8
    group: int = 32
    span: int = 32

    @property
    def out_features(self) -> int:
        return int(self.q.shape[0])

    @property
    def in_features(self) -> int:
        return int(self.q.shape[1]) * (2 if self.pair else 1)

    @property
    def nbytes(self) -> int:
        """Device memory of all planes."""
        planes = (self.q, self.scale, self.sub_scale, self.min_scale, self.sub_min)
        return sum(int(plane.nbytes) for plane in planes if plane is not None)


def repack(raw: Tensor, kind: GGMLType, in_features: int) -> PlanarWeight:
    """Take rows of whole blocks apart, on `raw`'s device: raw (bytes,) uint8.

    `kind` is one of PLANAR_TYPES; in_features is a multiple of its block, as in every GGUF file.
    """
    per_row = in_features // BLOCKS[kind][0]
    blocks = raw.view(-1, per_row, BLOCKS[kind][1])
    return _REPACKERS[kind](blocks)


def dequantize_planar(weight: PlanarWeight) -> Tensor:
    """The numbers, (out_features, in_features) float32, bit for bit those of ggml's blocks."""
    q = weight.q
    if weight.pair:
        runs = q.view(q.shape[0], -1, weight.pair)
        q = torch.stack((runs & 15, runs >> 4), 2).flatten(1)
    groups = q.float().view(q.shape[0], -1, weight.group) - weight.offset
    scale = _per_group(weight.scale, weight.sub_scale, weight)
    groups = scale.unsqueeze(-1) * groups
    if weight.min_scale is not None:
        groups = groups - _per_group(weight.min_scale, weight.sub_min, weight).unsqueeze(-1)
    return groups.flatten(1)


def _per_group(scale: Tensor, sub: Tensor | None, weight: PlanarWeight) -> Tensor:
    spread = scale.float().repeat_interleave(weight.span // weight.group, 1)
    return spread if sub is None else spread * sub.float()


# Each takes (rows, blocks per row, bytes of a block) uint8 ------------------------------------


def _half(blocks: Tensor, at: int) -> Tensor:
    return blocks[..., at : at + 2].contiguous().view(torch.float16).squeeze(-1)


def _plane(blocks: Tensor) -> Tensor:
    return blocks.flatten(1).contiguous()


def _q8_0(blocks: Tensor) -> PlanarWeight:
    return PlanarWeight(_plane(blocks[..., 2:]).view(torch.int8), _half(blocks, 0))


def _q4_0(blocks: Tensor) -> PlanarWeight:
    return PlanarWeight(_plane(blocks[..., 2:]), _half(blocks, 0), offset=8, pair=16)


def _q4_k(blocks: Tensor) -> PlanarWeight:
    scale, low, both = blocks[..., 4:16].unflatten(-1, (3, 4)).unbind(-2)
    return PlanarWeight(
        q=_plane(blocks[..., 16:]),
        scale=_half(blocks, 0),
        sub_scale=_plane(torch.cat((scale & 63, both & 15 | scale >> 2 & 48), -1)),
        min_scale=_half(blocks, 2),
        sub_min=_plane(torch.cat((low & 63, both >> 4 | low >> 2 & 48), -1)),
        pair=32,
        span=256,
    )


def _q6_k(blocks: Tensor) -> PlanarWeight:
    low = blocks[..., :128].unflatten(-1, (2, 1, 64))
    high = blocks[..., 128:192].unflatten(-1, (2, 1, 32))
    four = torch.arange(4, dtype=torch.uint8, device=blocks.device).view(4, 1)
    low = (low >> (four[:2] * 4) & 15).flatten(-2).unflatten(-1, (4, 32))
    q = (low | (high >> (four * 2) & 3) << 4).flatten(-3).view(torch.int8) - 32
    return PlanarWeight(
        q=_plane(q),
        scale=_half(blocks, 208),
        sub_scale=_plane(blocks[..., 192:208]).view(torch.int8),
        group=16,
        span=256,
    )


_REPACKERS = {
    GGMLType.Q8_0: _q8_0,
    GGMLType.Q4_0: _q4_0,
    GGMLType.Q4_K: _q4_k,
    GGMLType.Q6_K: _q6_k,
}
