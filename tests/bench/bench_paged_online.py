"""How long do clients wait while requests arrive by a Poisson process? In process, on any device.

The same seeded schedule goes to the paged engine and to Transformers' own continuous batching, at
random weights of one shape. `bench_paged_latency.py` measures our engine through HTTP.

    TTFT       from the moment a request was due to its first token
    between    from one token of a request to its next (ITL)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator

import harness
import online
import torch
from request_mix import Mix

# isort: split
from random_models import SHAPES, open_model

from engine.paged.engine import PagedEngine

OURS = "paged engine"


@contextlib.contextmanager
def contenders(options: argparse.Namespace, mix: Mix) -> Iterator[dict[str, online.Online]]:
    device, shape = torch.device(options.device), SHAPES[options.shape]
    batch_tokens = 2048 if device.type == "cuda" else 512
    model = open_model(
        shape, device, rows=options.streams, context=mix.context + 1, step_tokens=batch_tokens
    )
    found = {OURS: online.paged(PagedEngine(model))}
    try:
        import transformers_peers as peers
    except ImportError as error:
        print(f"without Transformers ({error}) there is nothing to compare", file=sys.stderr)
        yield found
        return
    theirs, attention = peers.random_model(shape, device)
    with peers.manager_of(theirs, options.streams, mix.context, batch_tokens) as manager:
        name = f"Transformers, continuous (paged|{attention})"
        yield found | {name: online.transformers(manager)}


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    torch.set_num_threads(options.threads)
    device, on_gpu = torch.device(options.device), options.device == "cuda"
    prompts, outputs = ((128, 512), (32, 128)) if on_gpu else ((16, 64), (8, 32))
    mix = Mix(options.requests, prompts, outputs, SHAPES[options.shape].vocab, options.seed)
    conditions = harness.machine() | harness.torch_conditions(device) | {
        "shape": options.shape, "prompt tokens": prompts, "output tokens": outputs,
        "requests": options.requests, "seed": options.seed, "threads": options.threads,
        "arrivals": "Poisson",
    }  # fmt: skip
    rows, figures, measured = [], [], {}
    with contenders(options, mix) as field:
        for answer in field.values():  # compiles and captures: all at once, then some alone
            answer(online.schedule(mix.jobs(0), 1e6, options.seed))
            answer(online.schedule(mix.jobs(1)[:4], 4.0, options.seed))
        for number, rate in enumerate(options.rates, 2):
            ours: dict[str, float] = {}
            for name, answer in field.items():
                answers = answer(online.schedule(mix.jobs(number), rate, options.seed))
                times = {
                    "TTFT": [one.ttft_ms for one in answers],
                    "between": [gap for one in answers for gap in one.gaps_ms],
                }
                measured[f"{name}, {rate}/s"] = times
                for what, values in times.items():
                    median, tail = (harness.percentile(values, p) for p in (50, 99))
                    rows.append(
                        [f"{what}, {rate:g} requests/s", name, str(len(values)),
                         f"{median:.1f}", f"{tail:.1f}", f"{max(values):.1f}"]
                    )  # fmt: skip
                    label = f"{what}, {rate:g}/s"
                    if name == OURS:
                        ours |= {f"{what} p50": median, f"{what} p99": tail}
                        figures.append(harness.Figure(f"{label} p50", median, unit="ms"))
                        figures.append(harness.Figure(f"{label} p99", tail, unit="ms"))
                        continue
                    for percent, value in (("p50", median), ("p99", tail)):
                        ratio = value / ours[f"{what} {percent}"]
                        title = f"{label} {percent}, {name} ÷ paged"
                        figures.append(harness.Figure(title, ratio, unit="x"))
    headers = ["ms", "who", "n", "p50", "p99", "max"]
    harness.report("paged_online", conditions, headers, rows, measured, figures)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("Latency of the paged engine under a request rate, in process")
    is_there = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if is_there else "cpu")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--rates", type=float, nargs="+", help="requests per second")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--requests", type=int, help="per rate; default 120, with --quick 40")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    on_gpu = options.device == "cuda"
    options.shape = options.shape or ("Llama-3.2-1B" if on_gpu else "135m")
    options.rates = options.rates or ([4.0, 16.0] if on_gpu else [0.5, 1.0])
    options.requests = options.requests or (40 if options.quick else 120)
    return options


if __name__ == "__main__":
    main()
