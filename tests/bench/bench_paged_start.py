"""How long from spawning a worker of the paged engine to its first token, and what stays after?

Twice on one file: first with whatever the kernel cache holds, then with it warm. Needs
llama-cpp-python and gguf (the vocabulary and the file); says so without them.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import sys
import time
from pathlib import Path

import harness

sys.path.insert(0, str(harness.REPOSITORY))

NEEDED = ("torch", "llama_cpp", "gguf", "numpy")


async def start(path: Path, context: int) -> tuple[float, float, str]:
    """Milliseconds to Ready and from there to the first token, and what the engine says."""
    from engine.api import GenerateRequest, LoadSpec, SamplingParams
    from engine.process.client import EngineClient

    began = time.perf_counter()
    spec = LoadSpec(engine="paged", model_path=str(path), context_length=context)
    client = await EngineClient.start(spec, timeout_s=120)
    ready = time.perf_counter()
    request = GenerateRequest(
        id=0, prompt=[5, 6, 7], max_tokens=1, ignore_eos=True, sampling=SamplingParams(seed=1)
    )
    async for _ in client.generate(request):
        pass
    first = time.perf_counter()
    await client.close()
    return (ready - began) * 1e3, (first - ready) * 1e3, client.info.description


def main(argv: list[str] | None = None) -> None:
    parser = harness.arguments("Start-up time of a worker of the paged engine")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--shape", default="0.5b")
    parser.add_argument("--quant", default="Q8_0")
    options: argparse.Namespace = parser.parse_args(argv)
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise SystemExit(f"{', '.join(absent)} missing")
    import shapes
    import torch

    path = shapes.ensure(
        shapes.SHAPES[options.shape], options.quant, options.models or shapes.default_folder()
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    conditions = harness.machine() | harness.torch_conditions(device) | {
        "shape": options.shape, "quant": options.quant
    }  # fmt: skip
    rows, figures, measured = [], [], []
    for name in ("first start", "second start"):
        ready_ms, first_ms, description = asyncio.run(start(path, 2048))
        measured.append({"name": name, "ready_ms": ready_ms, "first_token_ms": first_ms})
        rows.append([name, f"{ready_ms:.0f}", f"{first_ms:.0f}"])
        bar = 8000.0 if name == "second start" else None
        figures.append(
            harness.Figure(f"{options.shape} {name}: spawn to Ready", ready_ms, bar, True, "ms")
        )
    conditions["engine"] = description
    headers = ["start, ms", "spawn to Ready", "then to a token"]
    harness.report("paged_start", conditions, headers, rows, measured, figures)


if __name__ == "__main__":
    main()
