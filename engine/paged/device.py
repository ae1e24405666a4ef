"""What the device has and which back ends run on it: the one place that chooses.

Each family of Triton kernels serves only after a probe computed with it what its torch twin
computes; otherwise the twin serves, and `BackEnds.description` says why. A compiler that does not
know a new device must cost speed, not the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from engine.gguf.types import BLOCKS
from engine.paged.attention.base import AttentionBackend, AttentionBatch, AttentionParams, KvLayer
from engine.paged.attention.torch_paged import TorchPaged
from engine.paged.attention.triton_paged import TritonPaged
from engine.paged.kernels.jit import has_triton
from engine.paged.kernels.ops import TritonOps
from engine.paged.kernels.planar_linear import planar_matmul_torch, planar_matmul_triton
from engine.paged.kernels.sample import Choose, sample_torch, sample_triton
from engine.paged.layers import Ops, TorchOps
from engine.paged.memory import BLOCK_SIZE
from engine.paged.native.library import Library, NativeError, library
from engine.paged.native.loops import NATIVE_TYPES, NativeLinear, NativeOps, NativePaged
from engine.paged.weights.planar import PLANAR_TYPES, repack

MIN_CAPABILITY = (8, 0)  # Ampere: asynchronous copies and bf16
TOLERANCE = 0.02  # relative, in the 2-norm; what bf16 rounds away
_INTERPRETED_SMS = 4  # multiprocessors that the interpreter is said to have

Failures = Mapping[str, str]  # family of kernels → why it cannot serve here


@dataclass(frozen=True, slots=True)
class BackEnds:
    """Who computes what in one engine."""

    attention: AttentionBackend
    ops: Ops
    choose: Choose  # draws tokens
    num_sms: int  # for kernels that multiply by quantized weights; 0: weights are decoded at load
    has_graphs: bool  # launches depend on shapes only and run on a GPU: decode steps are captured
    description: str
    native: Library | None = None  # multiplies on the CPU, also by weights in half precision


def choose_back_ends(device: torch.device, num_sms: int, failures: Failures | None) -> BackEnds:
    """The decision alone. failures: what the probes found; None: no kernels are wanted here."""
    if failures is None:
        return BackEnds(TorchPaged(), TorchOps(), sample_torch, 0, False, "computed by torch")
    working = ", ".join(family for family in PROBES if family not in failures)
    said = [f"{working} by triton"] if working else []
    said += [f"{family} by torch ({reason})" for family, reason in failures.items()]
    return BackEnds(
        attention=TorchPaged() if "attention" in failures else TritonPaged(num_sms),
        ops=TorchOps() if "ops" in failures else TritonOps(),
        choose=sample_torch if "sampling" in failures else sample_triton,
        num_sms=0 if "projections" in failures else num_sms,
        has_graphs=device.type == "cuda" and "attention" not in failures,
        description="; ".join(said),
    )


def find_back_ends(
    device: torch.device, dtype: torch.dtype, head_dim: int, *, interpreted: bool = False
) -> BackEnds:
    """Probe and choose. interpreted: try the kernels on the CPU too, in Triton's interpreter."""
    if device.type == "cpu" and not interpreted:
        return _on_the_cpu(dtype, head_dim)
    num_sms = _INTERPRETED_SMS
    if device.type == "cuda":
        num_sms = torch.cuda.get_device_properties(device).multi_processor_count
    return choose_back_ends(device, num_sms, probe(device, dtype, head_dim, num_sms))


def _on_the_cpu(dtype: torch.dtype, head_dim: int) -> BackEnds:
    """Compiled loops where they can be had and agree with torch, else torch."""
    plain = choose_back_ends(torch.device("cpu"), 0, None)
    if dtype != torch.float32:
        return plain
    try:
        loops = library()
    except NativeError as error:
        return replace(plain, description=f"computed by torch ({error})")
    if native_differs(loops, head_dim):
        reason = "the compiled loops disagree with their reference"
        return replace(plain, description=f"computed by torch ({reason})")
    return replace(
        plain,
        attention=NativePaged(loops),
        ops=NativeOps(loops),
        description="computed by compiled loops",
        native=loops,
    )


def native_differs(loops: Library, head_dim: int) -> bool:
    """Whether the compiled loops compute something else than torch."""
    cpu = torch.device("cpu")
    x, weight = _random(cpu, torch.float32, 3, 40), _random(cpu, torch.float32, 100, 40)
    return (
        any(
            _differs(NativeLinear(loops, weight.to(kind), None)(x), x @ weight.to(kind).float().T)
            for kind in NATIVE_TYPES
        )
        or _ops_disagree(NativeOps(loops), cpu, torch.float32, head_dim)
        or _attention_disagrees(NativePaged(loops), cpu, torch.float32, head_dim)
    )


def probe(device: torch.device, dtype: torch.dtype, head_dim: int, num_sms: int) -> Failures:
    """The families that cannot serve here, after a tiny computation by each."""
    obstacle = _obstacle(device)
    if obstacle:
        return dict.fromkeys(PROBES, obstacle)
    failures = {}
    for family, disagrees in PROBES.items():
        try:
            if disagrees(device, dtype, head_dim, num_sms):
                failures[family] = f"its kernels disagree with their reference for {dtype}"
        except Exception as error:  # the border to a compiler: any failure of it means "not here"
            failures[family] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return failures


def _obstacle(device: torch.device) -> str:
    if not has_triton():
        return "triton is not installed: pip install 'hearth[gpu]'"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < MIN_CAPABILITY:
            return "compute capability {}.{} is below {}.{}".format(*capability, *MIN_CAPABILITY)
    return ""


def _differs(found: Tensor, wanted: Tensor) -> bool:
    error = (found.float() - wanted.float()).norm() / wanted.float().norm().clamp_min(1e-12)
    return not bool(error <= TOLERANCE)  # NaN differs


def _random(device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, device=device, generator=generator).to(dtype)


def _attention_differs(
    device: torch.device, dtype: torch.dtype, head_dim: int, num_sms: int
) -> bool:
    return _attention_disagrees(TritonPaged(num_sms), device, dtype, head_dim)


def _attention_disagrees(
    backend: AttentionBackend, device: torch.device, dtype: torch.dtype, head_dim: int
) -> bool:
    """Two tokens of prefill, then the second again as decode; plain and int8 caches."""
    twin = TorchPaged()
    qkv, params = _random(device, dtype, 2, 4, head_dim), AttentionParams(head_dim**-0.5)
    slots = torch.tensor([BLOCK_SIZE, BLOCK_SIZE + 1], device=device)
    for kv_dtype in (dtype, torch.int8):
        cache = empty_layer((2, BLOCK_SIZE, 1, head_dim), kv_dtype, device, by_head=backend.by_head)
        backend.store(qkv[:, 2:3], qkv[:, 3:], cache, slots)
        for count in (2, 1):
            start = torch.tensor([0, count], dtype=torch.int32, device=device)
            table = torch.ones((1, 1), dtype=torch.int32, device=device)
            batch = AttentionBatch(start, start[1:] * 0 + 2, table, slots[-count:], count, 2)
            q = qkv[-count:, :2]
            wanted = twin.attend(q, cache, batch, params)
            if not wanted.any() or _differs(backend.attend(q, cache, batch, params), wanted):
                return True
    return False


def _ops_differ(device: torch.device, dtype: torch.dtype, head_dim: int, num_sms: int) -> bool:
    return _ops_disagree(TritonOps(), device, dtype, head_dim)


def _ops_disagree(mine: Ops, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    twin = TorchOps()
    x, weight = _random(device, dtype, 2, 2, head_dim), _random(device, dtype, head_dim)
    angles = [_random(device, torch.float32, 2, 1, head_dim // 2).cos() for _ in "cs"]
    gate_up = x.view(2, -1)
    return (
        _differs(mine.rms_norm(x, weight, 1e-6), twin.rms_norm(x, weight, 1e-6))
        or _differs(
            mine.add_rms_norm(x[0], x[1], weight, 1e-6)[0],
            twin.add_rms_norm(x[0], x[1], weight, 1e-6)[0],
        )
        or _differs(mine.rotate(x, *angles), twin.rotate(x, *angles))
        or _differs(mine.gated(gate_up, "silu"), twin.gated(gate_up, "silu"))
    )


def _sampling_differs(
    device: torch.device, dtype: torch.dtype, head_dim: int, num_sms: int
) -> bool:
    logits = _random(device, torch.float32, 2, 100)
    heat, seeds = torch.tensor([0.0, 1.0], device=device), torch.tensor([3, -5], device=device)
    found, wanted = (f(logits, heat, seeds, seeds.abs()) for f in (sample_triton, sample_torch))
    return bool((found != wanted).any())


def _projections_differ(
    device: torch.device, dtype: torch.dtype, head_dim: int, num_sms: int
) -> bool:
    """Each type by the kernel for one token and the one for several."""
    for kind in PLANAR_TYPES:
        elements, size = BLOCKS[kind]
        # bytes up to 60: whatever two of them mean as float16 is finite
        raw = torch.arange(16 * 512 // elements * size, device=device) % 61
        weight = repack(raw.to(torch.uint8), kind, 512)
        for num_tokens in (1, 2):
            x = _random(device, dtype, num_tokens, 512)
            out = x.new_empty((2, num_tokens, 16))
            planar_matmul_triton(x, weight, out[0], num_sms)
            planar_matmul_torch(x, weight, out[1], num_sms)
            if _differs(*out):
                return True
    return False


PROBES: dict[str, Callable[[torch.device, torch.dtype, int, int], bool]] = {
    "attention": _attention_differs,
    "ops": _ops_differ,
    "sampling": _sampling_differs,
    "projections": _projections_differ,
}


def empty_layer(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    device: torch.device,
    *,
    by_head: bool = False,
) -> KvLayer:
    """Zeros of (num_blocks, block_size, num_kv_heads, head_dim); int8 gets its scales.

    by_head: as `AttentionBackend` explains it.
    """
    blocks, size, heads, head_dim = shape

    def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    if by_head:
        k = zeros(blocks, heads, head_dim, size).permute(0, 3, 1, 2)
        v = zeros(blocks, heads, size, head_dim).transpose(1, 2)
    else:
        k, v = (zeros(blocks, size, heads, head_dim) for _ in "kv")
    if dtype != torch.int8:
        return KvLayer(k, v)
    return KvLayer(k, v, *(zeros(blocks, size, heads, dtype=torch.float16) for _ in "kv"))


def available_bytes(device: torch.device) -> int:
    """Bytes that may be taken; on boards whose GPU shares the memory, what the kernel says.

    There CUDA counts the page cache as used, and the first model would seem not to fit.
    """
    if device.type == "cuda" and not torch.cuda.get_device_properties(device).is_integrated:
        return int(torch.cuda.mem_get_info(device)[0])
    return mem_available(Path("/proc/meminfo").read_text())


def mem_available(meminfo: str) -> int:
    """Bytes that the kernel could give without swapping, from the text of /proc/meminfo."""
    figures = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    return int(figures["MemAvailable"].split()[0]) * 1024
