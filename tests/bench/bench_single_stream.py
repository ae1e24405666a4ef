"""How close is one served stream to llama.cpp's own tools, on the same model and threads?

Three ways to the same weights take turns within each round, so that a ratio compares neighbours
in time: llama-bench (no HTTP, no sampling), llama-server over HTTP, and our service over HTTP.
Everyone decodes 128 tokens from an almost empty context and computes a prompt of 512 tokens that
nobody has cached, with an F16 KV cache and flash attention on "auto", which is each program's
default. The servers sample with top-k, top-p and temperature. llama-bench computes one prompt that
it does not count before the one that it does, so each server is asked one too, in the same order:
a process that was idle while its peers ran has its weights to find again. All three read one file,
the service's: the pages of two copies lie differently in memory.

    decode    tokens per second between the first token and the end, on the client's clock (on the
              program's own, where that is slower: a client that was kept from reading sees a burst)
    prefill   tokens per second as the program itself reports it
    ttft      512 tokens by the client's time to the first token: prefill with all that is around it
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import harness
import llama_native
import shapes
from streams import stream

PROMPT_TOKENS = 512
DECODED_TOKENS = 128  # intervals measured; one more token is generated
CONTEXT = 1024
WARM_UP = 1000  # added to a round's number: other words, so that nothing of them is cached
MEASURES = ("decode", "prefill", "ttft")
SAMPLING = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 1}

Rates = dict[str, float]  # measure -> tokens per second
Contender = Callable[[int], Rates]  # called with the round's number


def llama_bench(program: Path, model: Path, threads: int) -> Contender:
    sizes = ["-p", str(PROMPT_TOKENS), "-n", str(DECODED_TOKENS)]
    command = [str(program), "-m", str(model), "-t", str(threads), *sizes, "-r", "1", "-o", "json"]

    def measure(_round: int) -> Rates:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rates = {test["n_gen"] > 0: float(test["avg_ts"]) for test in json.loads(done.stdout)}
        return {"decode": rates[True], "prefill": rates[False]}

    return measure


@contextlib.contextmanager
def llama_server(program: Path, model: Path, threads: int) -> Iterator[Contender]:
    port = harness.free_port()
    command = [str(program), "-m", str(model), "-t", str(threads)]
    command += ["-c", str(CONTEXT), "--parallel", "1"]
    # No prompt is repeated, so its store of old prompts would only cost it time.
    command += ["--cache-ram", "0", "--host", "127.0.0.1", "--port", str(port)]
    options = SAMPLING | {"min_p": 0.0, "samplers": ["top_k", "top_p", "temperature"]}
    options |= {"stream": True, "cache_prompt": False, "ignore_eos": True}
    with harness.server(command, f"http://127.0.0.1:{port}", "/health") as service:

        def answer(prompt: str, count: int) -> tuple[float, float, dict[str, Any]]:
            request = options | {"prompt": prompt, "n_predict": count}
            events = stream(service.address, "/completion", request)
            first = next(event for event in events if event.data["content"])
            return first.at_s, events[-1].at_s, events[-1].data

        def measure(number: int) -> Rates:
            answer(shapes.words(PROMPT_TOKENS, WARM_UP + number), 1)
            first_s, _, last = answer(shapes.words(PROMPT_TOKENS, number), 1)
            _expect_prompt(last["timings"]["prompt_n"], "llama-server")
            rates = {"prefill": last["timings"]["prompt_per_second"]}
            rates["ttft"] = PROMPT_TOKENS / first_s
            first_s, end_s, last = answer(shapes.words(1, number), DECODED_TOKENS + 1)
            if last["tokens_predicted"] != DECODED_TOKENS + 1:
                raise SystemExit(f"llama-server ended early: {last}")
            took_s = max(end_s - first_s, last["timings"]["predicted_ms"] / 1e3)
            return rates | {"decode": DECODED_TOKENS / took_s}

        yield measure


def ollama_dialect(service: harness.Service, model: str, threads: int) -> Contender:
    options = SAMPLING | {"num_ctx": CONTEXT, "num_thread": threads, "repeat_penalty": 1.0}

    def answer(prompt: str, count: int) -> tuple[float, float, dict[str, Any]]:
        request = {"model": model, "prompt": prompt, "raw": True, "keep_alive": "1h"}
        request |= {"options": options | {"num_predict": count}}
        events = stream(service.address, "/api/generate", request)
        first = next(event for event in events if event.data["response"])
        return first.at_s, events[-1].at_s, events[-1].data

    def measure(number: int) -> Rates:
        answer(shapes.words(PROMPT_TOKENS, WARM_UP + number), 1)
        first_s, _, last = answer(shapes.words(PROMPT_TOKENS, number), 1)
        _expect_prompt(last["prompt_eval_count"], "the service")
        rates = {"prefill": PROMPT_TOKENS * 1e9 / last["prompt_eval_duration"]}
        rates["ttft"] = PROMPT_TOKENS / first_s
        first_s, end_s, last = answer(shapes.words(1, number), DECODED_TOKENS + 1)
        if last["eval_count"] != DECODED_TOKENS + 1:
            raise SystemExit(f"the stream ended early: {last}")
        took_s = max(end_s - first_s, last["eval_duration"] / 1e9)
        return rates | {"decode": DECODED_TOKENS / took_s}

    return measure


def _expect_prompt(count: int, who: str) -> None:
    if count != PROMPT_TOKENS:
        raise SystemExit(f"{who} read {count} prompt tokens instead of {PROMPT_TOKENS}")


def rounds(contenders: Mapping[str, Contender], count: int) -> dict[str, list[Rates]]:
    """`count` rounds after one that warms up; who begins moves on by one each round."""
    order = list(contenders)
    measured: dict[str, list[Rates]] = {name: [] for name in order}
    for number in range(count + 1):
        for name in order:
            rates = contenders[name](number)
            if number:
                measured[name].append(rates)
        order.append(order.pop(0))
    return measured


def table_rows(model: str, measured: Mapping[str, list[Rates]]) -> list[list[str]]:
    rows = []
    for measure in MEASURES:
        row = [f"{model} {measure}"]
        for name in ("llama-bench", "llama-server", "service"):
            values = [rates[measure] for rates in measured[name] if measure in rates]
            row.append(harness.Spread.of(values).text(1) if values else "")
        for peer in ("llama-bench", "llama-server"):
            pairs = zip(measured["service"], measured[peer], strict=True)
            ratios = [ours[measure] / its[measure] for ours, its in pairs if measure in its]
            row.append(harness.Spread.of(ratios).text(3) if ratios else "")
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    tools = llama_native.ensure(options.models)
    conditions = harness.machine() | {
        "llama.cpp": f"of llama-cpp-python {tools.version}",
        "threads": options.threads,
        "rounds": options.rounds,
        "kv": "F16, flash attention auto",
    }
    rows, results = [], {}
    with contextlib.ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hearth-bench-")))
        if options.server_url:
            service = harness.Service(options.server_url, None, 0.0)
        else:
            service = stack.enter_context(harness.hearth_service(HEARTH_STATE=str(state)))
        for shape, quant in itertools.product(options.shapes, options.quants):
            path = shapes.ensure(shapes.SHAPES[shape], quant, options.models)
            name = f"bench-{shape}-{quant}".lower()
            digest = harness.create_model(service, name, path)
            stored = state / "models" / "blobs" / digest.replace(":", "-")
            path = stored if stored.exists() else path
            with llama_server(tools.server, path, options.threads) as peer:
                contenders = {
                    "llama-bench": llama_bench(tools.bench, path, options.threads),
                    "llama-server": peer,
                    "service": ollama_dialect(service, name, options.threads),
                }
                measured = rounds(contenders, options.rounds)
            harness.unload(service, name)
            results[f"{shape} {quant}"] = measured
            rows += table_rows(f"{shape} {quant}", measured)
    headers = ["tokens/s", "llama-bench", "llama-server", "service", "÷ bench", "÷ server"]
    harness.report("single_stream", conditions, headers, rows, results)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("One served stream against llama.cpp's own tools")
    parser.add_argument("--models", type=Path, default=shapes.default_folder())
    parser.add_argument("--shapes", nargs="+", choices=shapes.SHAPES, default=list(shapes.SHAPES))
    parser.add_argument("--quants", nargs="+", choices=shapes.QUANTS, default=list(shapes.QUANTS))
    parser.add_argument("--rounds", type=int, help="default 5, with --quick 2")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--server-url", help="measure this server (Ollama's dialect), not ours")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (2 if options.quick else 5)
    return options


if __name__ == "__main__":
    main()
