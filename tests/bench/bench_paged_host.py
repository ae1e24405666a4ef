"""How much time does the paged scheduler take from each step, with nothing but decoding rows?

    plan, commit   microseconds of host time per step; block boundaries and publishing included
    step           both together, p50 and p99 over all steps
    columns        turning the plan's columns into numpy arrays, as a runner must

Sequences decode from contexts of different lengths, so that block boundaries are spread over the
steps. No device and no model: tokens are made up.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence
from typing import Any

import harness
import numpy as np

sys.path.insert(0, str(harness.REPOSITORY))

from engine.paged.limits import Limits
from engine.paged.prefix import PrefixIndex
from engine.paged.request import Request
from engine.paged.scheduler import Scheduler

BLOCK_SIZE = 32
PROMPT_TOKENS = 64
TOKEN = 7


def warm_scheduler(rows: int, steps: int) -> Scheduler:
    """`rows` sequences at work, none of which ends within the next `steps` steps."""
    context = PROMPT_TOKENS + BLOCK_SIZE + steps + 16
    limits = Limits(
        num_blocks=rows * (context // BLOCK_SIZE + 2) * 2,
        block_size=BLOCK_SIZE,
        context_length=context,
        max_running=rows,
        max_waiting=rows,
        step_tokens=rows * (PROMPT_TOKENS + BLOCK_SIZE),
    )
    scheduler = Scheduler(limits, PrefixIndex(limits.num_blocks, BLOCK_SIZE))
    for i in range(rows):
        prompt = [1000 + i] * (PROMPT_TOKENS + i % BLOCK_SIZE)
        scheduler.add(Request(i, prompt, end_tokens=frozenset({1, 2})))
    plan = scheduler.plan(1)
    scheduler.commit(1, dict.fromkeys(plan.ids, TOKEN))
    return scheduler


def measure(rows: int, steps: int, depth: int) -> dict[str, list[float]]:
    """Microseconds by part, one value per step. depth: steps planned before the commit of one."""
    scheduler = warm_scheduler(rows, steps)
    times: dict[str, list[float]] = {"plan": [], "commit": [], "step": [], "columns": []}
    clock = time.perf_counter
    plans = [scheduler.plan(epoch) for epoch in range(2, 2 + depth)]
    gc.collect()
    for epoch in range(2, 2 + steps):
        sampled = dict.fromkeys(plans[0].ids if plans else range(rows), TOKEN)
        start = clock()
        plans.append(scheduler.plan(epoch + depth))
        planned = clock()
        scheduler.commit(epoch, sampled)
        committed = clock()
        np.array(plans[-1].rows), np.array(plans[-1].starts)
        done = clock()
        plans.pop(0)
        times["plan"].append((planned - start) * 1e6)
        times["commit"].append((committed - planned) * 1e6)
        times["step"].append((committed - start) * 1e6)
        times["columns"].append((done - committed) * 1e6)
    return times


def main(argv: Sequence[str] | None = None) -> None:
    options = harness.arguments("Measure the host time of the paged scheduler").parse_args(argv)
    conditions = harness.machine() | {"block_size": BLOCK_SIZE}
    steps = 200 if options.quick else 2000
    rows: list[list[str]] = []
    measured: list[dict[str, Any]] = []
    for sequences in (1, 16, 64, 256):
        for depth, mode in ((0, "sync"), (1, "overlap")):
            times = measure(sequences, steps, depth)
            found: dict[str, Any] = {"sequences": sequences, "mode": mode}
            for part, percent in (("plan", 50), ("commit", 50), ("step", 50), ("step", 99)):
                found[f"{part}_p{percent}_us"] = round(harness.percentile(times[part], percent), 1)
            found["columns_p50_us"] = round(harness.percentile(times["columns"], 50), 1)
            measured.append(found)
            rows.append([str(value) for value in found.values()])
    headers = ["sequences", "mode", "plan p50 µs", "commit p50", "step p50", "step p99", "columns"]
    figures = [
        harness.Figure(
            f"plan + commit, 256 rows, {mode}", float(row["step_p50_us"]), 250, True, "µs"
        )
        for mode in ("sync", "overlap")
        for row in measured
        if row["sequences"] == 256 and row["mode"] == mode
    ]
    harness.report("paged_host", conditions, headers, rows, measured, figures)


if __name__ == "__main__":
    main()
