"""Opens a model for the paged engine: device, weights, cache, limits; one line of arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch

from engine.api import LoadSpec
from engine.errors import DeviceMemoryError, EngineRequestError
from engine.gguf import read_header
from engine.llama.threads import board_threads
from engine.paged.arch import ArchSpec, arch_spec
from engine.paged.attention.base import KvLayer
from engine.paged.decoder import Decoder
from engine.paged.device import BackEnds, available_bytes, empty_layer, find_back_ends
from engine.paged.limits import Limits
from engine.paged.memory import (
    BLOCK_SIZE,
    CPU_ROWS,
    CPU_STEP_TOKENS,
    GPU_ROWS,
    GPU_STEP_TOKENS,
    KvBudget,
    Room,
    plan_kv,
)
from engine.paged.weights.load import load_weights, weight_bytes

if TYPE_CHECKING:
    from engine.llama.vocab import Vocab


@dataclass(frozen=True, slots=True)
class PagedModel:
    """Everything that the engine runs on."""

    spec: ArchSpec
    vocab: Vocab
    end_tokens: frozenset[int]
    decoder: Decoder
    back_ends: BackEnds
    kv: tuple[KvLayer, ...]
    limits: Limits
    budget: KvBudget
    device: torch.device
    threads: int
    description: str

    @classmethod
    def open(cls, spec: LoadSpec, *, interpreted: bool = False) -> Self:
        """Raises ModelFormatError for what cannot run, DeviceMemoryError for what does not fit.

        EngineRequestError for a kv_type that this engine has not. interpreted: see `device.py`.
        """
        from engine.paged.vocab import open_vocab  # llama.cpp: only files need it

        kv_type = _kv_type(spec.kv_type)
        device = torch.device("cuda", spec.main_gpu) if _has_gpu(spec) else torch.device("cpu")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        threads = board_threads(spec.threads)
        torch.set_num_threads(threads)
        path = Path(spec.model_path)
        header = read_header(path)
        arch = arch_spec(header, spec.context_length)
        vocab = open_vocab(path)
        context_length = min(spec.context_length, arch.context_length)
        rows = GPU_ROWS if device.type == "cuda" else CPU_ROWS
        back_ends = find_back_ends(device, dtype, arch.head_dim, interpreted=interpreted)
        keep_quantized = back_ends.num_sms > 0
        weights_size = weight_bytes(header, dtype, keep_quantized=keep_quantized)
        budget = plan_kv(
            context_length=context_length,
            max_running=rows,
            block_size=BLOCK_SIZE,
            bytes_per_token=_token_bytes(arch, kv_type or dtype),
            room=Room(available_bytes(device), weights_size, spec.kv_bytes),
        )
        weights = load_weights(
            path,
            header,
            arch,
            device,
            dtype,
            keep_quantized=keep_quantized,
            num_sms=back_ends.num_sms,
            native=back_ends.native,
        )
        torch.cuda.empty_cache()  # what decoding took goes back; nothing happens without a GPU
        return cls(
            spec=arch,
            vocab=vocab,
            end_tokens=frozenset(t for t in range(vocab.size) if vocab.is_end(t)),
            decoder=Decoder(arch, weights, back_ends.ops),
            back_ends=back_ends,
            kv=_cache(arch, budget, device, kv_type or dtype, back_ends.attention.by_head),
            limits=Limits(
                num_blocks=budget.num_blocks,
                block_size=BLOCK_SIZE,
                context_length=context_length,
                max_running=rows,
                max_waiting=rows,
                step_tokens=GPU_STEP_TOKENS if device.type == "cuda" else CPU_STEP_TOKENS,
            ),
            budget=budget,
            device=device,
            threads=threads,
            description=f"{arch.architecture} {str(dtype).removeprefix('torch.')} on {device},"
            f" {rows} sequences, weights {weights.nbytes >> 20} MiB, {budget},"
            f" {back_ends.description}",
        )


def _has_gpu(spec: LoadSpec) -> bool:
    return spec.gpu_layers != 0 and torch.cuda.is_available()


def _kv_type(name: str) -> torch.dtype | None:
    """How keys and values are kept; None: as they are computed."""
    if name == "q4_0":
        raise EngineRequestError(
            "the paged engine keeps keys and values as f16 or q8_0, not as q4_0: "
            "choose one of these, or the llama engine"
        )
    return torch.int8 if name == "q8_0" else None


def _token_bytes(arch: ArchSpec, dtype: torch.dtype) -> int:
    scales = 2 * arch.num_kv_heads if dtype == torch.int8 else 0  # one float16 per head
    each: int = arch.kv_size * dtype.itemsize + scales  # of keys, and of values
    return 2 * arch.num_layers * each


def _cache(
    arch: ArchSpec, budget: KvBudget, device: torch.device, dtype: torch.dtype, by_head: bool
) -> tuple[KvLayer, ...]:
    shape = (budget.num_blocks, budget.block_size, arch.num_kv_heads, arch.head_dim)
    try:
        return tuple(
            empty_layer(shape, dtype, device, by_head=by_head) for _ in range(arch.num_layers)
        )
    except RuntimeError as error:  # what torch raises when the host has no memory
        raise DeviceMemoryError(
            f"no memory for the {budget}; load with a smaller num_ctx"
        ) from error
