"""How many tokens per second does the paged engine make on this device, against Transformers?

Random weights at one shape for everybody, mixed prompt and output lengths, all requests there from
the beginning, greedy, no end token. Contenders take turns; each is warmed up with a whole round,
so that kernels are compiled and graphs captured. Answering one after another takes minutes on a
GPU, so that contender answers a sample of the requests; its rate is that of the sample.

    paged ÷    the paged engine's tokens/s over this contender's, by round
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import harness
import torch
from request_mix import Answer, Job, Mix

# isort: split
from random_models import SHAPES, open_model

from engine.api import GenerateRequest, SamplingParams
from engine.paged.engine import PagedEngine

OURS = "paged engine"
PROMPTS, OUTPUTS = (128, 512), (32, 256)  # tokens
CPU_PROMPTS, CPU_OUTPUTS = (16, 64), (8, 32)


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    attention: str
    bar: float | None
    answer: Answer
    sample: int | None = None  # requests of each round; None: all


def answer_with(engine: PagedEngine) -> Answer:
    def answer(jobs: Sequence[Job]) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in jobs]
        for id, job in enumerate(jobs):
            engine.add(
                GenerateRequest(
                    id=id, prompt=job.prompt, max_tokens=job.output, ignore_eos=True,
                    truncate=False, sampling=SamplingParams(temperature=0),
                )
            )  # fmt: skip
        while engine.has_work():
            for step in engine.step():
                found[step.id] += step.token_ids
        return found

    return answer


@contextlib.contextmanager
def contenders(options: argparse.Namespace, mix: Mix) -> Iterator[list[Contender]]:
    device, shape = torch.device(options.device), SHAPES[options.shape]
    on_gpu = device.type == "cuda"
    model = open_model(
        shape, device, rows=options.streams, context=mix.context + 1,
        step_tokens=2048 if on_gpu else 512,
    )  # fmt: skip
    ours = Contender(OURS, model.back_ends.description, None, answer_with(PagedEngine(model)))
    try:
        import transformers_peers as peers
    except ImportError as error:
        print(f"without Transformers ({error}) there is nothing to compare", file=sys.stderr)
        yield [ours]
        return
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        theirs, attention = peers.random_model(shape, device)
        other, _ = peers.random_model(shape, device)
        batched = enter(
            peers.continuous(other, options.streams, mix.context, 2048 if on_gpu else 512)
        )
        one, static = enter(peers.sequential(theirs)), enter(peers.static(theirs, options.streams))
        bars = (50.0, 3.0, 1.5) if on_gpu else (None, None, None)
        yield [
            ours,
            Contender("Transformers, sequential", attention, bars[0], one, options.sample),
            Contender("Transformers, static batches", attention, bars[1], static),
            Contender("Transformers, continuous", f"paged|{attention}", bars[2], batched),
        ]


def rate(contender: Contender, jobs: Sequence[Job]) -> float:
    """Generated tokens per second."""
    jobs = jobs[: contender.sample]
    started = time.perf_counter()
    tokens = contender.answer(jobs)
    seconds = time.perf_counter() - started
    for job, answered in zip(jobs, tokens, strict=True):
        if len(answered) != job.output:
            raise SystemExit(f"{contender.name}: {len(answered)} tokens instead of {job.output}")
    print(f"{contender.name}: {seconds:.1f} s", file=sys.stderr)
    return sum(job.output for job in jobs) / seconds


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    torch.set_num_threads(options.threads)
    device, on_gpu = torch.device(options.device), options.device == "cuda"
    prompts, outputs = (PROMPTS, OUTPUTS) if on_gpu else (CPU_PROMPTS, CPU_OUTPUTS)
    vocab = SHAPES[options.shape].vocab
    mix = Mix(options.requests, prompts, outputs, vocab, options.seed)
    conditions = harness.machine() | harness.torch_conditions(device) | {
        "shape": options.shape, "streams": options.streams, "requests": options.requests,
        "prompt tokens": prompts, "output tokens": outputs, "rounds": options.rounds,
        "seed": options.seed, "sequential sample": options.sample, "threads": options.threads,
    }  # fmt: skip
    measured: dict[str, list[float]] = {}
    with contenders(options, mix) as field:
        for number in range(options.rounds + 1):
            for contender in field:
                jobs = mix.jobs(number)
                if not number and contender.sample:
                    jobs = jobs[:1]  # nothing to compile for it
                found = rate(contender, jobs)
                if number:
                    measured.setdefault(contender.name, []).append(found)
    rows, figures = [], []
    for contender in field:
        speeds = measured[contender.name]
        row = [contender.name, contender.attention, harness.Spread.of(speeds).text(0), "", ""]
        if contender.name != OURS:
            ratios = [ours / its for ours, its in zip(measured[OURS], speeds, strict=True)]
            row[3] = harness.Spread.of(ratios).text(2)
            row[4] = f"{contender.bar:g}" if contender.bar else ""
            what = f"{options.shape}, {options.streams} streams ÷ {contender.name}"
            what += f" ({contender.attention})"
            figures.append(
                harness.Figure(what, harness.Spread.of(ratios).median, contender.bar, unit="x")
            )
        else:
            figures.append(harness.Figure("output", harness.Spread.of(speeds).median, unit="tok/s"))
        rows.append(row)
    headers = ["output tokens/s", "attention", "tokens/s", "paged ÷", "bar"]
    harness.report("paged_device", conditions, headers, rows, measured, figures)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("Throughput of the paged engine on a device")
    is_there = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if is_there else "cpu")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--requests", type=int, help="default: two for each stream")
    parser.add_argument("--sample", type=int, default=4, help="requests answered sequentially")
    parser.add_argument("--rounds", type=int, help="default 3, with --quick 1")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    options.shape = options.shape or ("Llama-3.2-1B" if options.device == "cuda" else "135m")
    options.requests = options.requests or 2 * options.streams
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    main()
