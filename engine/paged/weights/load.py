"""Read a model's weights from its GGUF file onto the device.

The file is mapped, never read whole; only encoded bytes travel to the device, where they are
decoded into the compute dtype. Knows where tensors go; what they compute is `decoder.py`.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.errors import DeviceMemoryError, ModelFormatError
from engine.gguf import Header, TensorInfo
from engine.paged.arch import ArchSpec
from engine.paged.layers import DenseLinear, Linear, Rope, dense_linear
from engine.paged.weights import names
from engine.paged.weights.dequant import dequantize_into


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

    embedding: Tensor  # (vocab_size, hidden)
    layers: tuple[LayerWeights, ...]
    output_norm: Tensor  # (hidden,)
    output: Linear  # to (vocab_size,)
    rope: Rope
    local_rope: Rope
    nbytes: int  # device memory of all of it; a tied embedding counts once


def dense_bytes(header: Header, dtype: torch.dtype) -> int:
    """Device memory that `load_weights` will take at most, known before it begins."""
    itemsize: int = dtype.itemsize
    embedding = header.tensor(names.EMBEDDING + ".weight")
    tied = embedding is not None and header.tensor(names.OUTPUT + ".weight") is None
    again = embedding.elements if embedding and tied else 0  # the CPU's output is packed
    return (header.parameter_count + again) * itemsize


def load_weights(
    path: Path, header: Header, spec: ArchSpec, device: torch.device, dtype: torch.dtype
) -> Weights:
    """Stream all tensors of the file at `path`, whose header is `header`, to `device` as `dtype`.

    Raises ModelFormatError if tensors are missing, unknown or of a type that cannot be decoded,
    DeviceMemoryError if they do not fit.
    """
    names.check_tensors(header, spec)
    try:
        return _Loader(path, header, spec, device, dtype).weights()
    except torch.OutOfMemoryError as error:
        needed = dense_bytes(header, dtype) / 2**30
        raise DeviceMemoryError(
            f"the weights need {needed:.1f} GiB as {dtype} and do not fit on {device}: "
            "use a smaller model or free memory"
        ) from error


class _Loader:
    def __init__(
        self, path: Path, header: Header, spec: ArchSpec, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._header, self._spec = header, spec
        self._device, self._dtype = device, dtype
        self._file = _mapped(path, header.file_size)
        self._nbytes = 0

    def weights(self) -> Weights:
        spec = self._spec
        embedding = self._joined((names.Part(names.EMBEDDING, spec.vocab_size),), spec.hidden)
        if self._header.tensor(names.OUTPUT + ".weight"):
            output = self._linear((names.Part(names.OUTPUT, spec.vocab_size),), spec.hidden)
        else:
            output = dense_linear(embedding)
            self._nbytes += 0 if isinstance(output, DenseLinear) else output.nbytes
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

    def _linear(self, parts: tuple[names.Part, ...], in_features: int) -> Linear:
        return dense_linear(self._joined(parts, in_features), self._bias(parts))

    def _joined(self, parts: tuple[names.Part, ...], in_features: int) -> Tensor:
        """The parts' rows below each other: (out_features, in_features)."""
        weight = self._empty(sum(part.out_features for part in parts), in_features)
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
        return out

    def _factors(self, name: str) -> Tensor | None:
        if not name:
            return None
        out = torch.empty(self._info(name).shape)
        dequantize_into(out, self._raw(name), self._info(name).type)
        return out

    def _fill(self, out: Tensor, name: str, heads: int) -> None:
        """Decode a tensor into `out`, after moving whole encoded rows, which is exact."""
        raw = self._raw(name)
        if heads:
            order = names.neox_order(heads, self._spec.head_dim, self._spec.rope.dim)
            raw = raw.view(len(order), -1)[order].view(-1)
        dequantize_into(out, raw, self._info(name).type)

    def _raw(self, name: str) -> Tensor:
        info = self._info(name)
        start = self._header.data_offset + info.offset
        return self._file[start : start + info.nbytes]

    def _info(self, name: str) -> TensorInfo:
        info = self._header.tensor(name)
        if info is None:
            raise ModelFormatError(f"the tensor '{name}' is missing: convert the model again")
        return info

    def _empty(self, *shape: int) -> Tensor:
        out = torch.empty(shape, dtype=self._dtype, device=self._device)
        self._nbytes += out.nbytes
        return out


def _mapped(path: Path, size: int) -> Tensor:
    """The file's bytes, (size,) uint8, mapped privately."""
    try:
        if path.stat().st_size != size:
            raise ModelFormatError("the model file changed while it was being loaded: try again")
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except OSError as error:
        raise ModelFormatError(f"the model file cannot be read: {error.strerror}") from error
