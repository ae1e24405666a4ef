"""How near is a decode step of the paged engine to what the memory allows?

A step must read every weight as it is stored and the keys and values of every context; the floor
is those bytes over the bandwidth that a plain copy or read of a large tensor reaches in the same
run. Random weights at the shapes of public models, prompts that share nothing.

    step       host time of a step while all streams decode: the whole engine, graphs included
    floor      those bytes over that bandwidth
    of floor   floor ÷ step; the bars are issue 3's, for a GPU
    device     the step's time on the device alone, by events; what is left is the host
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import harness
import torch

# isort: split
from random_models import SHAPES, STORED, open_model, step_bytes

from engine.api import GenerateRequest, SamplingParams
from engine.paged.engine import PagedEngine

BARS = {"Llama-3.2-1B": 0.65, "Qwen3-4B": 0.80, "Llama-3.1-8B": 0.85}
CROWD_BARS = BARS | {"Llama-3.1-8B": 0.80}  # of many streams
WARM_UP = 5  # steps: the first compiles, the next captures


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    shape: str
    stored: str
    streams: int
    context: int  # tokens of each sequence in the middle of the measurement
    weight_bytes: int
    kv_bytes: int
    step_ms: float
    device_ms: float

    def floor_ms(self, gb_s: float) -> float:
        return (self.weight_bytes + self.kv_bytes) / gb_s / 1e6


def bandwidth(device: torch.device, repeats: int) -> dict[str, float]:
    """GB/s of a copy (bytes read and written) and of a read, of more than any cache holds."""
    size = (1 << 30) if device.type == "cuda" else (1 << 28)
    source = torch.ones(size // 4, device=device)
    to = torch.empty_like(source)
    return {
        "copy": 2 * size / _least_s(lambda: to.copy_(source), device, repeats) / 1e9,
        "read": size / _least_s(source.max, device, repeats) / 1e9,
    }


def _least_s(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - started)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(name: str, stored: str, streams: list[int], options: argparse.Namespace) -> list[Case]:
    """All numbers of streams on one model, the most first: its cache is the largest."""
    device, found = torch.device(options.device), []
    context = options.context + options.steps + WARM_UP + 2
    model = open_model(
        SHAPES[name], device, rows=max(streams), context=context, stored=stored,
        step_tokens=options.step_tokens,
    )  # fmt: skip
    for count in sorted(streams, reverse=True):
        engine = PagedEngine(model)
        steps = options.steps + WARM_UP
        generator = torch.Generator().manual_seed(count)
        for id in range(count):
            ids = torch.randint(SHAPES[name].vocab, (options.context,), generator=generator)
            engine.add(
                GenerateRequest(
                    id=id, prompt=ids.tolist(), max_tokens=steps + 2, ignore_eos=True,
                    sampling=SamplingParams(temperature=0), truncate=False,
                )
            )  # fmt: skip
        while _decoding(engine) < count:
            engine.step()
            if not engine.has_work():
                raise SystemExit(f"{name}: sequences ended before all {count} were decoding")
        step_ms, device_ms = _timed(engine, device, options.steps)
        weights, kv = step_bytes(model, count, options.context + steps // 2)
        found.append(Case(name, stored, count, options.context, weights, kv, step_ms, device_ms))
        for id in range(count):
            engine.abort(id)
        while engine.has_work():
            engine.step()
        engine.close()
    del model, engine
    gc.collect()
    return found


def _decoding(engine: PagedEngine) -> int:
    sequences: dict[int, Any] = engine._sequences  # noqa: SLF001 nobody else asks for it
    return sum(sequence.told > 0 for sequence in sequences.values())


def _timed(engine: PagedEngine, device: torch.device, steps: int) -> tuple[float, float]:
    """Milliseconds of a step: of the host, and of the device alone (0 where it is the host)."""
    for _ in range(WARM_UP):
        engine.step()
    _wait(device)
    events = [torch.cuda.Event(enable_timing=True) for _ in "ab"] if device.type == "cuda" else []
    started = time.perf_counter()
    if events:
        events[0].record()
    for _ in range(steps):
        engine.step()
    if events:
        events[1].record()
    _wait(device)
    host_ms = (time.perf_counter() - started) * 1e3 / steps
    return host_ms, events[0].elapsed_time(events[1]) / steps if events else 0.0


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("paged_floor: no CUDA device is visible; try --device cpu")
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    conditions = harness.machine() | harness.torch_conditions(device) | {
        "threads": options.threads, "context": options.context, "steps": options.steps,
    }  # fmt: skip
    speeds = bandwidth(device, 5 if options.quick else 20)
    cases = []
    for name in options.shapes:
        for stored in options.stored:
            # Quantized weights are for few streams: one shows what they are worth.
            streams = options.streams if stored == "dense" else [1]
            cases += measure(name, stored, streams, options)
            again = bandwidth(device, 3)  # the best of the run: other programs only take from it
            speeds = {way: max(speed, again[way]) for way, speed in speeds.items()}
    conditions["bandwidth GB/s"] = {way: round(speed, 1) for way, speed in speeds.items()}
    best = max(speeds.values())
    rows, figures = [], []
    for case in cases:
        floor = case.floor_ms(best)
        share = floor / case.step_ms
        bars = BARS if case.streams == 1 else CROWD_BARS
        bar = bars.get(case.shape) if case.stored == "dense" else None
        what = f"{case.shape} {case.stored}, {case.streams} streams"
        rows.append(
            [what, f"{case.weight_bytes / 1e6:.0f} + {case.kv_bytes / 1e6:.0f}",
             f"{case.step_ms:.2f}", f"{case.device_ms:.2f}" if case.device_ms else "",
             f"{floor:.2f}", f"{share:.0%}", f"{bar:.0%}" if bar else "",
             f"{case.streams / case.step_ms * 1e3:.0f}"]
        )  # fmt: skip
        figures.append(harness.Figure(f"decode ÷ floor, {what}", share, bar))
    figures += _gains(cases)
    headers = ["decode step", "weights + KV, MB", "step ms", "device ms", "floor ms", "of floor",
               "bar", "tokens/s"]  # fmt: skip
    measured = [{name: getattr(case, name) for name in Case.__slots__} for case in cases]
    harness.report("paged_floor", conditions, headers, rows, measured, figures)


def _gains(cases: list[Case]) -> list[harness.Figure]:
    """What quantized weights save of a step at one stream (paged-engine.md 10.9)."""
    alone = {(case.shape, case.stored): case.step_ms for case in cases if case.streams == 1}
    return [
        harness.Figure(f"{shape} {stored} ÷ dense, 1 stream", alone[shape, "dense"] / step_ms, bar)
        for (shape, stored), step_ms in alone.items()
        if (bar := {"Q8_0": 1.6, "Q4_K": 2.2}.get(stored)) and (shape, "dense") in alone
    ]


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("Decode time of the paged engine against the memory's floor")
    is_there = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if is_there else "cpu")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES)
    parser.add_argument("--streams", nargs="+", type=int)
    parser.add_argument("--stored", nargs="+", choices=STORED, help="how weights are kept")
    parser.add_argument("--context", type=int, help="tokens of each prompt")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--step-tokens", type=int, help="token budget of a prefill step")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(argv)
    on_gpu = options.device == "cuda"
    options.shapes = options.shapes or ([*BARS] if on_gpu else ["135m", "0.5b"])
    options.streams = options.streams or ([1, 64, 256] if on_gpu else [1, 4, 16])
    options.stored = options.stored or (["dense", "Q8_0", "Q4_K"] if on_gpu else ["dense"])
    options.context = options.context or (512 if on_gpu else 64)
    options.steps = options.steps or ((60 if on_gpu else 12) // (2 if options.quick else 1))
    options.step_tokens = options.step_tokens or (8192 if on_gpu else 512)
    return options


if __name__ == "__main__":
    main()
