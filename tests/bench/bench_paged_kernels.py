"""How much of the device's bandwidth each paged kernel uses, beside plain torch doing the same.

Decode attention, projections of one token and of eight, norms and stores are all limited by the
bytes they must move; the peak is what a copy of 1 GiB reaches on this device. Needs a CUDA device:
`python tests/bench/bench_paged_kernels.py [--quick]` ends with one line of explanation without one.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import harness
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.gguf.types import GGMLType
from engine.paged.attention.base import AttentionParams
from engine.paged.attention.torch_paged import TorchPaged
from engine.paged.attention.triton_paged import TritonPaged
from engine.paged.kernels import planar_linear
from engine.paged.kernels.ops import TritonOps
from engine.paged.layers import TorchOps
from tests.gpu.paged_cases import make_batch, make_cache, random_planar

SHAPES = {"Llama-3.2-1B": (32, 8, 64), "Qwen3-4B": (32, 8, 128), "Llama-3.1-8B": (32, 8, 128)}
DEVICE = torch.device("cuda")
SEED = 20
Case = tuple[str, int, Callable[[], object], Callable[[], object]]  # name, bytes, kernel, torch


def main(argv: list[str] | None = None) -> None:
    options = harness.arguments("Measure the paged engine's kernels in GB/s").parse_args(argv)
    if not torch.cuda.is_available():
        sys.exit("bench_paged_kernels: no CUDA device is visible; kernels are not measured")
    torch.manual_seed(SEED)
    repeats = 10 if options.quick else 50
    peak = _peak_gb_s(repeats)
    rows, measured, figures = [], [], []
    for name, size, kernel, plain in [*_attention(), *_projections(), *_rows()]:
        ours, torchs = _median_us(kernel, repeats), _median_us(plain, max(repeats // 5, 3))
        speed = size / ours / 1e3
        rows.append([name, f"{ours:.1f}", f"{torchs:.1f}", f"{speed:.0f}", f"{speed / peak:.0%}"])
        measured.append({"name": name, "us": ours, "torch_us": torchs, "bytes": size})
        figures.append(harness.Figure(f"{name}, {speed:.0f} GB/s of {peak:.0f}", speed / peak))
    conditions = harness.machine() | harness.torch_conditions(DEVICE) | {
        "seed": SEED,
        "copy_gb_s": round(peak), "repeats": repeats,
    }  # fmt: skip
    headers = ["kernel", "us", "torch us", "GB/s", "of peak"]
    harness.report("paged_kernels", conditions, headers, rows, measured, figures)


def _median_us(work: Callable[[], object], repeats: int) -> float:
    """Device time of one call by events, the L2 cache flushed before each."""
    flush = torch.empty(256 << 20, dtype=torch.uint8, device=DEVICE)
    work()
    times = []
    for _ in range(repeats):
        flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times)


def _peak_gb_s(repeats: int) -> float:
    source, to = torch.empty((2, 1 << 30), dtype=torch.uint8, device=DEVICE)
    return 2 * source.nbytes / _median_us(lambda: to.copy_(source), repeats) / 1e3


def _attention() -> Iterator[Case]:
    """One decode step of a layer: every key and value of the contexts is read once."""
    num_sms = torch.cuda.get_device_properties(DEVICE).multi_processor_count
    kernels, plain = TritonPaged(num_sms), TorchPaged()
    for model, (heads, kv_heads, head_dim) in SHAPES.items():
        for num_seqs, context in ((1, 8192), (64, 512), (64, 2048)):
            for quantized in (False, True):
                batch = make_batch([(1, context)] * num_seqs, 32, DEVICE)
                dtype = torch.bfloat16
                cache = make_cache(batch, 32, kv_heads, head_dim, dtype, quantized)
                q = torch.randn(num_seqs, heads, head_dim, device=DEVICE).to(dtype)
                params = AttentionParams(head_dim**-0.5)
                per_head = head_dim + 2 if quantized else 2 * head_dim
                size = 2 * num_seqs * context * kv_heads * per_head
                call = (q, cache, batch, params)
                kind = "int8" if quantized else "bf16"
                yield (
                    f"decode {model} {num_seqs} x {context} {kind}", size,
                    lambda call=call: kernels.attend(*call),
                    lambda call=call: plain.attend(*call),
                )  # fmt: skip


def _projections() -> Iterator[Case]:
    """Llama-3.1-8B's gate, quantized, against the same matrix in bf16."""
    num_sms = torch.cuda.get_device_properties(DEVICE).multi_processor_count
    dense = torch.randn(14336, 4096, device=DEVICE).to(torch.bfloat16)
    for kind in (GGMLType.Q8_0, GGMLType.Q4_0, GGMLType.Q4_K, GGMLType.Q6_K):
        weight = random_planar(kind, 14336, 4096, DEVICE)
        for num_tokens in (1, 8, 64):
            x = torch.randn(num_tokens, 4096, device=DEVICE).to(torch.bfloat16)
            out = torch.empty(num_tokens, 14336, dtype=torch.bfloat16, device=DEVICE)
            call = (x, weight, out, num_sms)
            yield (
                f"{kind.name} 14336 x 4096, {num_tokens} tokens",
                weight.nbytes + x.nbytes + out.nbytes,
                lambda call=call: planar_linear.planar_matmul_triton(*call),
                lambda x=x: x @ dense.T,
            )


def _rows() -> Iterator[Case]:
    x, residual = torch.randn(2, 8192, 4096, device=DEVICE).to(torch.bfloat16)
    weight, wide = torch.ones(4096, device=DEVICE).to(torch.bfloat16), torch.cat((x, residual), 1)
    yield (
        "add + rms norm, 8192 x 4096", 4 * x.nbytes,
        lambda: TritonOps().add_rms_norm(x, residual, weight, 1e-6),
        lambda: TorchOps().add_rms_norm(x, residual, weight, 1e-6),
    )  # fmt: skip
    yield (
        "silu * up, 8192 x 4096", 3 * x.nbytes,
        lambda: TritonOps().gated(wide, "silu"),
        lambda: TorchOps().gated(wide, "silu"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
