"""How long do clients of the paged engine wait, through HTTP, while others come and go?

Requests with mixed prompt and output lengths arrive by a Poisson process, whether earlier ones
are done or not, and are streamed in Ollama's dialect. Client and service share the cores. Then,
with nobody else there: a long prompt that begins as an earlier one did, against one that is new.
`bench_paged_online.py` compares with Transformers' continuous batching, without HTTP.

    TTFT          from sending a request to its first token
    between       from one token of a request to its next
    hit ÷ cold    TTFT of a prompt whose beginning is cached over that of a new one, by pair; the
                  bar is 0.25
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import harness
import shapes
from streams import stream

NEEDED = ("torch", "llama_cpp")
MODEL = "bench-paged"
CONTEXT = 1024
PROMPTS, OUTPUTS = (32, 256), (16, 128)  # tokens
PREFIX, QUESTION = 600, 8  # tokens
MAX_CLIENTS = 64


@dataclass(frozen=True, slots=True)
class Answered:
    """One request, in milliseconds."""

    ttft: float
    gaps: list[float]


class Client:
    """Asks one service, with the thread count that its engine shall use."""

    def __init__(self, service: harness.Service, threads: int) -> None:
        self._service = service
        self._options = {"num_ctx": CONTEXT, "num_thread": threads, "temperature": 0}

    def ask(self, prompt: str, count: int) -> Answered:
        request: dict[str, Any] = {"model": MODEL, "prompt": prompt, "raw": True}
        request |= {"options": self._options | {"num_predict": count}, "keep_alive": "1h"}
        events = stream(self._service.address, "/api/generate", request)
        times = [event.at_s * 1e3 for event in events if event.data["response"]]
        if events[-1].data["eval_count"] != count:
            raise SystemExit(f"the stream ended early: {events[-1].data}")
        return Answered(times[0], [after - before for before, after in pairwise(times)])


def arriving(client: Client, rate: float, count: int, seed: int) -> list[Answered]:
    """`count` requests, `rate` per second on average."""
    rng = random.Random(seed)
    with ThreadPoolExecutor(MAX_CLIENTS) as pool:
        waiting, due = [], time.perf_counter()
        for number in range(count):
            prompt = shapes.words(rng.randint(*PROMPTS), seed=seed * 10_000 + number)
            output = rng.randint(*OUTPUTS)
            time.sleep(max(0.0, due - time.perf_counter()))
            waiting.append(pool.submit(client.ask, prompt, output))
            due += rng.expovariate(rate)
        return [future.result() for future in waiting]


def prefix_pairs(client: Client, count: int, seed: int) -> list[tuple[float, float]]:
    """TTFT cold and hit of `count` prefixes that nobody has sent before."""
    pairs = []
    for number in range(count):
        prefix = shapes.words(PREFIX, seed=-seed - number)
        cold, hit = (
            client.ask(prefix + shapes.words(QUESTION, seed=question), 2).ttft
            for question in (1, 2)
        )
        pairs.append((cold, hit))
    return pairs


def _row(name: str, values: list[float]) -> list[str]:
    figures = [harness.percentile(values, 50), harness.percentile(values, 99), max(values)]
    return [name, str(len(values)), *(f"{value:.1f}" for value in figures)]


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        print(f"paged_latency: skipped, {', '.join(absent)} missing; pip install -e '.[dev]'")
        return
    conditions = harness.machine() | {
        "shape": options.shape, "weights": "random, F16 in the file, computed in float32",
        "threads": options.threads, "seed": options.seed,
        "prompt tokens": PROMPTS, "output tokens": OUTPUTS, "prefix tokens": PREFIX,
    }  # fmt: skip
    path = shapes.ensure(shapes.SHAPES[options.shape], shapes.FLOATS, options.models)
    rows, measured = [], {}
    with harness.hearth_service(HEARTH_ENGINE="paged") as service:
        harness.create_model(service, MODEL, path)
        client = Client(service, options.threads)
        client.ask(shapes.words(PREFIX, seed=0), 8)  # loads the model and warms it up
        for rate in options.rates:
            answered = arriving(client, rate, options.requests, options.seed)
            measured[f"{rate}/s"] = [(one.ttft, one.gaps) for one in answered]
            rows.append(_row(f"TTFT, {rate} requests/s", [one.ttft for one in answered]))
            gaps = [gap for one in answered for gap in one.gaps]
            rows.append(_row(f"between tokens, {rate} requests/s", gaps))
        pairs = prefix_pairs(client, options.pairs, options.seed)
    measured["prefix"] = pairs
    rows.append(_row("TTFT, new prompt", [cold for cold, _ in pairs]))
    rows.append(_row("TTFT, its beginning is cached", [hit for _, hit in pairs]))
    ratio = harness.Spread.of([hit / cold for cold, hit in pairs])
    rows.append(["hit ÷ cold, bar 0.25", str(len(pairs)), ratio.text(3), "", ""])
    harness.report("paged_latency", conditions, ["ms", "n", "p50", "p99", "max"], rows, measured)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("Latency of the paged engine through HTTP")
    parser.add_argument("--models", type=Path, default=shapes.default_folder())
    parser.add_argument("--shape", choices=shapes.SHAPES, default="135m")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1.5], help="requests/s")
    parser.add_argument("--requests", type=int, help="per rate; default 40, with --quick 10")
    parser.add_argument("--pairs", type=int, help="prefixes; default 5, with --quick 2")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    options.requests = options.requests or (10 if options.quick else 40)
    options.pairs = options.pairs or (2 if options.quick else 5)
    return options


if __name__ == "__main__":
    main()
