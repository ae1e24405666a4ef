"""Read a model's weights from its GGUF file onto the device.

It is read tensor by tensor, not mapped: a file cut short or a stick pulled out is an error then,
not a signal that kills. Only encoded bytes travel to the device, where they are decoded into the
compute dtype, or repacked if they shall stay quantized. Knows where tensors go; what they compute
is `decoder.py`.
"""

import re
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import DeviceMemoryError, ModelFormatError
from engine.gguf import Header, TensorInfo
from engine.gguf.types import GGMLType
from engine.paged.arch import ArchSpec
from engine.paged.kernels.planar_linear import PlanarLinear
from engine.paged.layers import DenseLinear, Linear, Rope, dense_linear
from engine.paged.native.library import Library
from engine.paged.weights import names
from engine.paged.weights.dequant import dequantize_into
from engine.paged.weights.planar import PLANAR_TYPES, PlanarWeight, repack


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer. Norms are (hidden,), those of queries and keys (head_dim,)."""

    attn_norm: Tensor
    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    attn_output: Linear
    post_attention_norm: Tensor | None
    ffn_norm: Tensor
    gate_up: Linear
    ffn_down: Linear
    post_ffw_norm: Tensor | None


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole model on its device."""

    embedding: Tensor  # (vocab_size, hidden), perhaps of less precision than is computed in
    layers: tuple[LayerWeights, ...]
    output_norm: Tensor  # (hidden,)
    output: Linear  # to (vocab_size,)
    rope: Rope
    local_rope: Rope
    nbytes: int  # device memory of all of it; a tied embedding counts once


_HALVES = {GGMLType.F16: torch.float16, GGMLType.BF16: torch.bfloat16}

# bits per weight of those that stay quantized, scales included (planar.py)
_PLANAR_BITS = {
    GGMLType.Q8_0: 8.5,
    GGMLType.Q4_0: 4.5,
    GGMLType.Q4_K: 4.625,
    GGMLType.Q6_K: 8.5625,
}


def weight_bytes(header: Header, dtype: torch.dtype, *, keep_quantized: bool = False) -> int:
    """Device memory that `load_weights` will take at most, known before it begins."""
    embedding = names.EMBEDDING + ".weight"
    dense_bits, total = 8 * dtype.itemsize, 0.0
    decoded = {_projection(t.name) for t in header.tensors if t.type not in PLANAR_TYPES}
    for tensor in header.tensors:
        stays = keep_quantized and _projection(tensor.name) not in decoded
        bits = _PLANAR_BITS[tensor.type] if stays else dense_bits
        total += tensor.elements * (dense_bits if tensor.name == embedding else bits)
        if tensor.name == embedding and header.tensor(names.OUTPUT + ".weight") is None:
            total += tensor.elements * bits  # tied, but not kept as the embedding is
    return int(total / 8)


def _projection(name: str) -> str:
    """Tensors with an equal one are multiplied as one, and decoded if one of them is."""
    return re.sub(r"attn_[qkv]\.weight$|ffn_(gate|up)\.weight$", lambda m: m[0][:4], name)


def load_weights(
    path: Path,
    header: Header,
    spec: ArchSpec,
    device: torch.device,
    dtype: torch.dtype,
    *,
    keep_quantized: bool = False,
    num_sms: int = 0,
    native: Library | None = None,
) -> Weights:
    """Stream all tensors of the file at `path`, whose header is `header`, to `device` as `dtype`.

    keep_quantized  projections whose parts are all of PLANAR_TYPES stay as they are encoded
    num_sms         streaming multiprocessors for their kernels; 0: plain torch computes
    native          multiplies instead of torch, by F16 and BF16 weights as they are stored

    Raises ModelFormatError if tensors are missing, unknown or of a type that cannot be decoded,
    DeviceMemoryError if they do not fit.
    """
    names.check_tensors(header, spec)
    try:
        with path.open("rb", buffering=0) as file:
            return _Loader(
                file, header, spec, device, dtype, keep_quantized, num_sms, native
            ).weights()
    except OSError as error:
        raise ModelFormatError(f"the model file cannot be read: {error.strerror}") from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        needed = weight_bytes(header, dtype, keep_quantized=keep_quantized) / 2**30
        raise DeviceMemoryError(
            f"the weights need {needed:.1f} GiB as {dtype} and do not fit on {device}: "
            "use a smaller model or free memory"
        ) from error


class _Loader:
    def __init__(
        self,
        file: FileIO,
        header: Header,
        spec: ArchSpec,
        device: torch.device,
        dtype: torch.dtype,
        keep_quantized: bool,
        num_sms: int,
        native: Library | None,
    ) -> None:
        self._header, self._spec = header, spec
        self._keep_quantized, self._num_sms, self._native = keep_quantized, num_sms, native
        self._device, self._dtype = device, dtype
        self._file = file
        self._nbytes = 0

    def weights(self) -> Weights:
        spec = self._spec
        tied = self._header.tensor(names.OUTPUT + ".weight") is None
        embedding = self._joined((names.Part(names.EMBEDDING, spec.vocab_size),), spec.hidden)
        self._nbytes += embedding.nbytes
        head = names.Part(names.EMBEDDING if tied else names.OUTPUT, spec.vocab_size)
        output = self._linear((head,), spec.hidden, embedding if tied else None)
        layers = tuple(self._layer(layer) for layer in range(spec.num_layers))
        factors = self._factors(spec.rope.factors_tensor)
        local_factors = self._factors(spec.local_rope.factors_tensor)
        return Weights(
            embedding=embedding,
            layers=layers,
            output_norm=self._vector(names.OUTPUT_NORM + ".weight"),
            output=output,
            rope=Rope(spec.rope, factors, self._device),
            local_rope=Rope(spec.local_rope, local_factors, self._device),
            nbytes=self._nbytes,
        )

    def _layer(self, layer: int) -> LayerWeights:
        spec, p = self._spec, f"blk.{layer}."
        return LayerWeights(
            attn_norm=self._vector(p + "attn_norm.weight"),
            qkv=self._linear(names.qkv_parts(spec, layer), spec.hidden),
            q_norm=self._vector(p + "attn_q_norm.weight") if spec.qk_norm else None,
            k_norm=self._vector(p + "attn_k_norm.weight") if spec.qk_norm else None,
            attn_output=self._linear((names.Part(p + "attn_output", spec.hidden),), spec.q_size),
            post_attention_norm=(
                self._vector(p + "post_attention_norm.weight") if spec.post_norms else None
            ),
            ffn_norm=self._vector(p + "ffn_norm.weight"),
            gate_up=self._linear(names.gate_up_parts(spec, layer), spec.hidden),
            ffn_down=self._linear((names.Part(p + "ffn_down", spec.hidden),), spec.ff),
            post_ffw_norm=self._vector(p + "post_ffw_norm.weight") if spec.post_norms else None,
        )

    def _linear(
        self, parts: tuple[names.Part, ...], in_features: int, weight: Tensor | None = None
    ) -> Linear:
        """A projection; `weight` is its dense matrix, where that is loaded already."""
        bias = self._bias(parts)
        linear: Linear
        kinds = [self._info(part.name + ".weight").type for part in parts]
        if self._keep_quantized and all(kind in PLANAR_TYPES for kind in kinds):
            planar = tuple(self._planar(part, in_features) for part in parts)
            linear = PlanarLinear(planar, bias, self._num_sms)
        else:
            dense = self._joined(parts, in_features) if weight is None else weight
            linear = dense_linear(dense, bias, self._native)
        shared = isinstance(linear, DenseLinear) and linear.weight is weight
        self._nbytes += 0 if shared else linear.nbytes
        return linear

    def _planar(self, part: names.Part, in_features: int) -> PlanarWeight:
        name = part.name + ".weight"
        raw = self._rows(name, part.heads).to(self._device)
        return repack(raw, self._info(name).type, in_features)

    def _joined(self, parts: tuple[names.Part, ...], in_features: int) -> Tensor:
        """The parts' rows below each other: (out_features, in_features)."""
        kinds = {self._info(part.name + ".weight").type for part in parts}
        dtype = self._dtype
        if self._native is not None and len(kinds) == 1:
            dtype = _HALVES.get(kinds.pop(), dtype)
        shape = (sum(part.out_features for part in parts), in_features)
        weight = _allocate(shape, dtype, self._device)
        first = 0
        for part in parts:
            rows = weight[first : first + part.out_features]
            self._fill(rows, part.name + ".weight", part.heads)
            first += part.out_features
        return weight

    def _bias(self, parts: tuple[names.Part, ...]) -> Tensor | None:
        if not any(self._header.tensor(part.name + ".bias") for part in parts):
            return None
        bias = self._empty(sum(part.out_features for part in parts)).zero_()
        first = 0
        for part in parts:
            if self._header.tensor(part.name + ".bias"):
                elements = bias[first : first + part.out_features]
                self._fill(elements, part.name + ".bias", part.heads)
            first += part.out_features
        return bias

    def _vector(self, name: str) -> Tensor:
        out = self._empty(*self._info(name).shape)
        self._fill(out, name, heads=0)
        self._nbytes += out.nbytes
        return out

    def _factors(self, name: str) -> Tensor | None:
        if not name:
            return None
        out = torch.empty(self._info(name).shape)
        dequantize_into(out, self._rows(name), self._info(name).type)
        return out

    def _fill(self, out: Tensor, name: str, heads: int) -> None:
        dequantize_into(out, self._rows(name, heads), self._info(name).type)

    def _rows(self, name: str, heads: int = 0) -> Tensor:
        """A tensor's encoded bytes; with `heads`, whole rows of them in another order."""
        info = self._info(name)
        raw = _allocate((info.nbytes,), torch.uint8, torch.device("cpu"))
        self._file.seek(self._header.data_offset + info.offset)
        left = memoryview(raw.numpy())
        while left:
            count = self._file.readinto(left)
            if not count:
                raise ModelFormatError(
                    f"the model file ends {len(left)} bytes before the end of '{name}':"
                    " pull the model again"
                )
            left = left[count:]
        if not heads:
            return raw
        order = names.neox_order(heads, self._spec.head_dim, self._spec.rope.dim)
        return raw.view(len(order), -1)[order].view(-1)

    def _info(self, name: str) -> TensorInfo:
        info = self._header.tensor(name)
        if info is None:
            raise ModelFormatError(f"the tensor '{name}' is missing: convert the model again")
        return info

    def _empty(self, *shape: int) -> Tensor:
        return _allocate(shape, self._dtype, self._device)


def _allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    try:
        return torch.empty(shape, dtype=dtype, device=device)
    except RuntimeError as error:  # what torch raises when the host has no memory, too
        raise MemoryError(f"no memory for {shape} of {dtype}") from error
