"""The pieces of a decoder layer in plain torch: linear, norms, rotation, gated activation.

`Linear` is the seam for weights that stay quantised, `Ops` the seam for fused kernels. Shapes use
the glossary's words; num_tokens is all tokens of one step, of all sequences.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from engine.paged.arch import Activation, RopeSpec
from engine.paged.native.library import Library
from engine.paged.native.loops import NativeLinear

_PACKED_ROWS = 16  # tokens of the step that packed weights are laid out for; any number works
_YARN_FAST, _YARN_SLOW = 32.0, 1.0  # rotations within the trained context; llama.cpp's defaults


class Linear(Protocol):
    """A projection; how its weights are kept is its own affair."""

    @property
    def nbytes(self) -> int:
        """Device memory of the weights."""

    def __call__(self, x: Tensor) -> Tensor:
        """x (num_tokens, in_features) → (num_tokens, out_features), both in the compute dtype."""


class DenseLinear:
    """Weights in the compute dtype: weight (out_features, in_features), bias (out_features,)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.weight, self.bias) if tensor is not None)

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class PackedLinear:
    """Weights in the order of bytes that oneDNN multiplies by; for the CPU, 1.2 to 2 times faster.

    weight (out_features, in_features) and bias (out_features,) as in DenseLinear.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        pack = torch.ops.mkldnn._reorder_linear_weight  # noqa: SLF001 has no public name
        self._packed = pack(weight, _PACKED_ROWS)
        self._bias = bias
        self.nbytes = sum(tensor.nbytes for tensor in (weight, bias) if tensor is not None)

    def __call__(self, x: Tensor) -> Tensor:
        multiply = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 has no public name
        out: Tensor = multiply(x, self._packed, self._bias, "none", [], "")
        return out


def dense_linear(
    weight: Tensor, bias: Tensor | None = None, native: Library | None = None
) -> Linear:
    """The fastest dense linear for where `weight` is; `native` multiplies on the CPU."""
    if native is not None:
        return NativeLinear(native, weight, bias)
    if weight.device.type == "cpu" and _packs(weight.dtype):
        return PackedLinear(weight, bias)
    return DenseLinear(weight, bias)


def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs such weights on this processor: bfloat16 needs AVX-512 or the like."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 has no public name
    return dtype is torch.float32


class Rope:
    """Rotary embedding: the angles of positions, computed when asked for."""

    def __init__(self, spec: RopeSpec, factors: Tensor | None, device: torch.device) -> None:
        """factors (dim / 2,) float32 divide the frequencies, for models that carry them."""
        frequencies = _frequencies(spec)
        if factors is not None:
            frequencies = frequencies / factors.cpu()
        self._frequencies = frequencies.to(device)
        self._attention_factor = spec.attention_factor

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine for positions (num_tokens,): each (num_tokens, 1, dim / 2) float32."""
        angles = positions.view(-1, 1, 1).float() * self._frequencies
        return angles.cos() * self._attention_factor, angles.sin() * self._attention_factor


def _frequencies(spec: RopeSpec) -> Tensor:
    """Radians per token, (dim / 2,) float32."""
    exponents = torch.arange(0, spec.dim, 2, dtype=torch.int64).float() / spec.dim
    frequencies = 1.0 / spec.theta**exponents
    if spec.scaling == "linear":
        return frequencies / spec.factor
    if spec.scaling == "yarn":  # arXiv 2309.00071: only slow pairs are stretched
        low = max(math.floor(_yarn_pair(spec, _YARN_FAST)), 0)
        high = min(math.ceil(_yarn_pair(spec, _YARN_SLOW)), spec.dim - 1)
        ramp = (torch.arange(spec.dim // 2).float() - low) / max(high - low, 0.001)
        slow = ramp.clamp(0, 1)
        return frequencies / spec.factor * slow + frequencies * (1 - slow)
    return frequencies


def _yarn_pair(spec: RopeSpec, rotations: float) -> float:
    """Index of the pair that turns so many times within the original context."""
    wavelength = spec.original_context / (rotations * 2 * math.pi)
    return spec.dim * math.log(wavelength) / (2 * math.log(spec.theta))


class Ops(Protocol):
    """The small operations between projections; a device may bring fused ones."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Normalise the last dimension of x (…, size) in float32; weight (size,)."""

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """(rms_norm(x + residual), x + residual); may overwrite `residual`, never `x`."""

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turn pairs (i, i + dim / 2) of x (num_tokens, heads, head_dim); the rest stays."""

    def gated(self, gate_up: Tensor, activation: Activation) -> Tensor:
        """(num_tokens, 2 * ff) → activation(gate) * up, (num_tokens, ff)."""


@dataclass(frozen=True, slots=True)
class TorchOps:
    """The reference, for every device."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if x.dtype != torch.float32:
            return functional.rms_norm(x, weight.shape, weight, eps)
        # torch has no fused kernel for the CPU and composes its norm of more operations than these
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        shrink = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        return (x * shrink).mul_(weight)

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        residual = residual + x
        return self.rms_norm(residual, weight, eps), residual

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = cos.shape[-1]
        first, second = x[..., :half], x[..., half : 2 * half]
        out = torch.empty(x.shape, dtype=cos.dtype, device=x.device)
        torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=out[..., half : 2 * half]).addcmul_(first, sin)
        if x.shape[-1] > 2 * half:
            out[..., 2 * half :] = x[..., 2 * half :]
        return out.to(x.dtype)

    def gated(self, gate_up: Tensor, activation: Activation) -> Tensor:
        gate, up = gate_up.chunk(2, -1)
        acted = (
            functional.silu(gate)
            if activation == "silu"
            else functional.gelu(gate, approximate="tanh")
        )
        return acted.mul_(up)
