"""The paged engine's whole table in one run of ten minutes: `python tests/bench/gpu_table.py`.

Each part is a benchmark of its own in its own process, with a time budget; one that is missing,
fails or takes too long is a row that says so, and the others go on. Needs torch, msgspec, numpy
and, for the comparison, transformers; without llama-cpp-python and gguf only the start is missing.
`--cpu` proves the script anywhere, at small shapes: its figures say nothing of a GPU.

Before it on a new machine: `pytest tests/gpu` (numbers, graphs against launches, unloading).

Ends with one table: every figure, its bar (reference/paged-engine.md 10.9), and whether it held.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Part:
    """One benchmark, as it is run on a GPU and on the CPU; None: it has nothing to show there."""

    name: str
    script: str
    budget_s: int
    gpu: tuple[str, ...]
    cpu: tuple[str, ...] | None


PARTS = (
    Part("host time", "bench_paged_host.py", 30, ("--quick",), ("--quick",)),
    Part("kernels", "bench_paged_kernels.py", 100, ("--quick",), None),
    Part("floor", "bench_paged_floor.py", 170, ("--quick",),
         ("--quick", "--device", "cpu", "--shapes", "135m", "0.5b", "--streams", "1", "8")),
    Part("throughput", "bench_paged_device.py", 160, ("--quick",),
         ("--quick", "--device", "cpu", "--shape", "tiny", "--streams", "8")),
    Part("latency", "bench_paged_online.py", 80, ("--quick",),
         ("--quick", "--device", "cpu", "--shape", "tiny", "--rates", "8")),
    Part("aborts", "soak_paged_aborts.py", 60, (), ("--device", "cpu", "--aborts", "1000")),
    Part("start", "bench_paged_start.py", 60, ("--quick",), ("--quick", "--shape", "135m")),
)  # fmt: skip
TOTAL_S = 590


def run(part: Part, arguments: tuple[str, ...], budget_s: float, folder: Path) -> str:
    """Its lines go to `folder`; returns why it has none, or nothing."""
    command = [sys.executable, str(FOLDER / part.script), *arguments]
    environ = os.environ | {"HEARTH_BENCH_RESULTS": str(folder), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, errors = process.communicate(timeout=budget_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the workers that it started
        process.communicate()
        return f"not done within {budget_s:.0f} s"
    last = (errors.strip().splitlines() or ["it says nothing"])[-1]
    return f"failed: {last[:120]}" if process.returncode else ""


def results(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The paged engine's table for a GPU")
    parser.add_argument("--cpu", action="store_true", help="small shapes, to prove the script")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS])
    options = parser.parse_args(argv)
    started, conditions = time.monotonic(), harness.machine()
    rows: list[list[str]] = []
    done: list[dict[str, Any]] = []
    for part in PARTS:
        arguments = part.cpu if options.cpu else part.gpu
        if options.only and part.name not in options.only:
            continue
        if arguments is None:
            rows.append([part.name, "needs a GPU", "not measured", "", ""])
            continue
        left = TOTAL_S - (time.monotonic() - started)
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="hearth-part-") as folder:
            budget_s = min(part.budget_s, max(left, 1))
            reason = run(part, arguments, budget_s, Path(folder))
            found = results(Path(folder))
        for line in found:
            conditions |= {key: line[key] for key in ("device", "capability") if key in line}
            conditions["versions"] |= line["versions"]
            for figure in map(_figure, line["figures"]):
                bar = "" if figure.bar is None else f"{figure.bar:g}"
                value = f"{figure.value:.3g} {figure.unit}".strip()
                rows.append([part.name, figure.what, value, bar, figure.held])
        if not reason and not found:
            reason = "not measured: see above"
        if reason:
            rows.append([part.name, reason, "not measured", "", ""])
        done += found
        print(f"-- {part.name}: {time.monotonic() - began:.0f} s {reason}", file=sys.stderr)
    conditions["seconds"] = round(time.monotonic() - started)
    print("\n## paged engine, the whole table\n")
    for key, value in conditions.items():
        print(f"{key}: {value}")
    print()
    harness.print_table(["part", "figure", "value", "bar", "held"], rows)
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **conditions}
    harness.append_result("gpu_table", line | {"rows": rows, "parts": done})


def _figure(fields: dict[str, Any]) -> harness.Figure:
    return harness.Figure(**fields)


if __name__ == "__main__":
    main()
