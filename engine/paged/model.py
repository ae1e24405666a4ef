"""Opens a model for the paged engine: device, weights, cache, limits; one line of arithmetic."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from engine.api import LoadSpec
from engine.errors import DeviceMemoryError
from engine.gguf import read_header
from engine.llama.threads import board_threads
from engine.llama.vocab import Vocab
from engine.paged.arch import ArchSpec, arch_spec
from engine.paged.attention.base import AttentionBackend, KvLayer
from engine.paged.attention.torch_paged import TorchPaged
from engine.paged.decoder import Decoder
from engine.paged.limits import Limits
from engine.paged.memory import KvBudget, plan_kv
from engine.paged.vocab import open_vocab
from engine.paged.weights.load import load_weights, weight_bytes

BLOCK_SIZE = 32  # tokens
CPU_ROWS, GPU_ROWS = 16, 64  # sequences at once, unless the spec says
CPU_STEP_TOKENS, GPU_STEP_TOKENS = 512, 2048
RESERVE_BYTES = 512 * 1024 * 1024  # for activations and everything else on the device


@dataclass(frozen=True, slots=True)
class PagedModel:
    """Everything that the engine runs on."""

    spec: ArchSpec
    vocab: Vocab
    end_tokens: frozenset[int]
    decoder: Decoder
    attention: AttentionBackend
    kv: tuple[KvLayer, ...]
    limits: Limits
    budget: KvBudget
    device: torch.device
    threads: int
    description: str

    @classmethod
    def open(cls, spec: LoadSpec) -> Self:
        """Raises ModelFormatError for what cannot run, DeviceMemoryError for what does not fit."""
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
        budget = plan_kv(
            context_length=context_length,
            max_running=rows,
            block_size=BLOCK_SIZE,
            bytes_per_token=2 * arch.num_layers * arch.kv_size * dtype.itemsize,
            available_bytes=_available(device) - weight_bytes(header, dtype) - RESERVE_BYTES,
        )
        weights = load_weights(path, header, arch, device, dtype)
        return cls(
            spec=arch,
            vocab=vocab,
            end_tokens=frozenset(t for t in range(vocab.size) if vocab.is_end(t)),
            decoder=Decoder(arch, weights),
            attention=TorchPaged(),
            kv=_cache(arch, budget, device, dtype),
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
            f" {rows} sequences, weights {weights.nbytes >> 20} MiB, {budget}",
        )


def _has_gpu(spec: LoadSpec) -> bool:
    return spec.gpu_layers != 0 and torch.cuda.is_available()


def _available(device: torch.device) -> int:
    """Bytes that may be taken; on boards whose GPU shares the memory, what the kernel says."""
    if device.type == "cuda" and not torch.cuda.get_device_properties(device).is_integrated:
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _cache(
    arch: ArchSpec, budget: KvBudget, device: torch.device, dtype: torch.dtype
) -> tuple[KvLayer, ...]:
    shape = (budget.num_blocks, budget.block_size, arch.num_kv_heads, arch.head_dim)
    try:
        return tuple(
            KvLayer(
                torch.zeros(shape, dtype=dtype, device=device),
                torch.zeros(shape, dtype=dtype, device=device),
            )
            for _ in range(arch.num_layers)
        )
    except (torch.OutOfMemoryError, RuntimeError) as error:
        raise DeviceMemoryError(
            f"no memory for the {budget}; load with a smaller num_ctx"
        ) from error
