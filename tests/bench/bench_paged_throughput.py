"""How many tokens per second does the paged engine make of 16 streams on the CPU?

Requests with mixed prompt and output lengths are all there from the beginning; up to `--streams`
are answered at once. The contenders take turns within each round, so that a ratio compares
neighbours in time; every one has the same weights and computes in float32, with the same threads,
the same prompts, greedy choice, no end-of-generation token, and no prompt that it has seen before.
The weights are half precision in the file: our compiled loops keep them so, the others as float32.

    tokens/s   generated tokens of all requests, over the time until the last is there
    paged ÷    the paged engine's tokens/s over this contender's, by round
    CPU ÷      the same with seconds of processor time, on which other programs weigh less
    bar        what that ratio shall reach
    same       requests answered with the same tokens as by Transformers, one after another; a few
               differ when two candidates are so close that the order of additions decides
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import harness
import shapes
from request_mix import Answer, Job, Mix

sys.path.insert(0, str(harness.REPOSITORY))

NEEDED = ("torch", "transformers", "safetensors", "llama_cpp")
OURS, SEQUENTIAL = "paged engine", "Transformers, one after another"
PROMPTS, OUTPUTS = (32, 256), (16, 128)  # tokens
WARM_UP = 4  # requests
HEAD_DIM = 64  # of every shape


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to answer jobs; `answer` is None where it is missing, and `note` says why."""

    name: str
    note: str  # which attention it uses
    bar: float | None
    answer: Answer | None


@dataclass(frozen=True, slots=True)
class Result:
    """One contender in one round."""

    tokens_per_s: float
    cpu_s: float  # of all threads, of this process and its children
    tokens: list[list[int]]


@contextlib.contextmanager
def paged(model: Path, context: int, threads: int) -> Iterator[Answer]:
    """Our engine in this process, through the Engine protocol."""
    from engine.api import GenerateRequest, LoadSpec, SamplingParams
    from engine.errors import EngineBusyError
    from engine.paged.engine import load

    spec = LoadSpec(
        engine="paged", model_path=str(model), context_length=context, threads=threads,
        gpu_layers=0,
    )  # fmt: skip
    engine = load(spec, lambda: None)

    def accepts(id: int, job: Job) -> bool:
        request = GenerateRequest(
            id=id, prompt=job.prompt, max_tokens=job.output, ignore_eos=True, truncate=False,
            sampling=SamplingParams(temperature=0),
        )  # fmt: skip
        try:
            engine.add(request)
        except EngineBusyError:
            return False
        return True

    def answer(jobs: Sequence[Job]) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in jobs]
        waiting = deque(enumerate(jobs))
        while waiting or engine.has_work():
            while waiting and accepts(*waiting[0]):
                waiting.popleft()
            for step in engine.step():
                found[step.id] += step.token_ids
        return found

    yield answer
    engine.close()


@contextlib.contextmanager
def contenders(options: argparse.Namespace, mix: Mix) -> Iterator[list[Contender]]:
    """All of them, loaded. Who cannot take part has a note that says why."""
    import hf_folder
    import transformers_peers as peers
    import vllm_peer

    shape, streams, context = _shape(options), options.streams, mix.context
    gguf = shapes.ensure(shape, shapes.FLOATS, options.models)
    folder = hf_folder.ensure(shape, gguf)
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        ours = enter(paged(gguf, context, options.threads))
        model = peers.load(folder)
        static = enter(peers.static(model, streams))
        continuous = enter(peers.continuous(peers.load(folder), streams, context))
        vllm, missing = None, vllm_peer.missing(options.models)
        if not missing:
            try:
                vllm = enter(
                    vllm_peer.running(options.models, folder, streams, context, options.threads)
                )
            except vllm_peer.VllmError as error:
                print(error, file=sys.stderr)
                missing = "did not start, see above"
        yield [
            Contender(OURS, "over its blocks in place", None, ours),
            Contender(SEQUENTIAL, "SDPA", 4.0, enter(peers.sequential(model))),
            Contender("Transformers, static batches", "SDPA with a mask", 1.5, static),
            Contender("Transformers, continuous batching", "paged|sdpa", None, continuous),
            Contender(f"vLLM {vllm_peer.VERSION} for CPUs", missing or "CPU_ATTN", 1.0, vllm),
        ]


def _description() -> str:
    import torch

    from engine.paged.device import find_back_ends

    return find_back_ends(torch.device("cpu"), torch.float32, HEAD_DIM).description


def _shape(options: argparse.Namespace) -> shapes.Shape:
    shape = shapes.SHAPES[options.shape]
    if not options.layers:
        return shape
    name = f"{shape.name}-{options.layers}-layers"
    return dataclasses.replace(shape, name=name, layers=options.layers)


def measure(field: Sequence[Contender], mix: Mix, rounds: int) -> dict[str, list[Result]]:
    """`rounds` rounds after a short one that warms up; who begins moves on by one each round."""
    order = [contender for contender in field if contender.answer is not None]
    found: dict[str, list[Result]] = {contender.name: [] for contender in order}
    for number in range(rounds + 1):
        jobs = mix.jobs(number) if number else mix.jobs(0)[:WARM_UP]
        for contender in order:
            result = _timed(contender, jobs)
            if number:
                found[contender.name].append(result)
        order.append(order.pop(0))
    return found


def _timed(contender: Contender, jobs: Sequence[Job]) -> Result:
    assert contender.answer is not None
    started, cpu_before = time.perf_counter(), _cpu_s()
    tokens = contender.answer(jobs)
    seconds, cpu_s = time.perf_counter() - started, _cpu_s() - cpu_before
    for job, answered in zip(jobs, tokens, strict=True):
        if len(answered) != job.output:
            raise SystemExit(f"{contender.name}: {len(answered)} tokens instead of {job.output}")
    print(f"{contender.name}: {seconds:.1f} s", file=sys.stderr)
    return Result(sum(job.output for job in jobs) / seconds, cpu_s, tokens)


def _cpu_s() -> float:
    return time.process_time() + sum(map(harness.cpu_s, harness.children(os.getpid())))


def table_rows(
    field: Sequence[Contender], measured: Mapping[str, list[Result]]
) -> Iterator[list[str]]:
    for contender in field:
        bar = f"{contender.bar:.1f}" if contender.bar else ""
        results = measured.get(contender.name)
        if results is None:
            yield [contender.name, contender.note, "", "", "", bar, ""]
            continue
        speed = harness.Spread.of([result.tokens_per_s for result in results])
        pairs = list(zip(measured[OURS], results, strict=True))
        ratios = ["", ""]
        if contender.name != OURS:
            wall = [ours.tokens_per_s / its.tokens_per_s for ours, its in pairs]
            cpu = [its.cpu_s / ours.cpu_s for ours, its in pairs]
            ratios = [harness.Spread.of(wall).text(2), f"{harness.Spread.of(cpu).median:.2f}"]
        same = _same(measured[SEQUENTIAL], results)
        yield [contender.name, contender.note, speed.text(1), *ratios, bar, same]


def _same(reference: Sequence[Result], results: Sequence[Result]) -> str:
    pairs = [
        expected == found
        for one, other in zip(reference, results, strict=True)
        for expected, found in zip(one.tokens, other.tokens, strict=True)
    ]
    return f"{sum(pairs)} of {len(pairs)}"


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        print(f"paged_throughput: skipped, {', '.join(absent)} missing; pip install -e '.[dev]'")
        return
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # torch reads it when it is imported
    mix = Mix(options.requests, PROMPTS, OUTPUTS, shapes.SHAPES[options.shape].vocab, options.seed)
    conditions = harness.machine() | {
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
        "shape": _shape(options).name, "weights": "random, F16 in the file, computed in float32",
        "threads": options.threads, "streams": options.streams, "rounds": options.rounds,
        "requests": options.requests, "seed": options.seed,
        "prompt tokens": PROMPTS, "output tokens": OUTPUTS,
    }  # fmt: skip
    with contenders(options, mix) as field:
        conditions["paged engine"] = _description()
        measured = measure(field, mix, options.rounds)
    headers = ["output tokens/s", "attention", "tokens/s", "paged ÷", "CPU ÷", "bar", "same"]
    figures = {
        name: [{"tokens_per_s": r.tokens_per_s, "cpu_s": r.cpu_s} for r in results]
        for name, results in measured.items()
    }
    harness.report("paged_throughput", conditions, headers, [*table_rows(field, measured)], figures)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("Throughput of the paged engine on the CPU")
    parser.add_argument("--models", type=Path, default=shapes.default_folder())
    parser.add_argument("--shape", choices=shapes.SHAPES, default="135m")
    parser.add_argument(
        "--layers", type=int, default=0, help="fewer than the shape has, to try out"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rounds", type=int, help="default 3, with --quick 1")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    main()
