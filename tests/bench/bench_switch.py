"""How long does the event loop wait for the interpreter while a thread reads a model's header?

Every install, create and show of a model parses its GGUF header in Python, in a thread; with a
vocabulary of 150,000 tokens that takes a tenth of a second. The thread lets go of the interpreter
once in a switch interval, and the loop asks for it again after every system call. An echo over
loopback, every 3 ms, is timed meanwhile, with Python's interval and with the service's in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Iterator

import harness

sys.path.insert(0, str(harness.REPOSITORY))

from appliance.service import SWITCH_INTERVAL_S
from engine.gguf.reader import data_start
from tests.fakes.gguf_builder import tiny_llama_bytes

PAUSE_S = 0.003
PYTHONS_S = 0.005


@contextlib.contextmanager
def parsing(head: bytes, size: int, counts: list[int]) -> Iterator[None]:
    """A thread that parses the header over and over; adds how often to `counts`."""
    stop = threading.Event()

    def work() -> None:
        done = 0
        while not stop.is_set():
            data_start(head, size)
            done += 1
        counts.append(done)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def echo_ms(seconds: float) -> list[float]:
    """Times of an echo on one loop, in milliseconds."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        asked = time.perf_counter()
        writer.write(b"x")
        await reader.read(100)
        times.append((time.perf_counter() - asked) * 1e3)
        await asyncio.sleep(PAUSE_S)
    writer.close()
    await reader.read(1)  # the other side is done
    server.close()
    await server.wait_closed()
    return times


def main(argv: list[str] | None = None) -> None:
    parser = harness.arguments("What a switch interval costs the event loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=150_000)
    options: argparse.Namespace = parser.parse_args(argv)
    seconds = 1.0 if options.quick else 4.0
    conditions = harness.machine() | {"vocab": options.vocab, "rounds": options.rounds}
    model = tiny_llama_bytes(vocab=options.vocab)
    head, size = model[: data_start(model, len(model))], len(model)
    measured: dict[str, dict[str, list[float]]] = {}
    for _ in range(options.rounds):
        for interval_s in (PYTHONS_S, SWITCH_INTERVAL_S):
            counts: list[int] = []
            sys.setswitchinterval(interval_s)
            with parsing(head, size, counts):
                times = asyncio.run(echo_ms(seconds))
            found = measured.setdefault(f"{interval_s * 1e3:g} ms", {})
            for percent in (50, 99, 100):
                found.setdefault(f"p{percent}_ms", []).append(harness.percentile(times, percent))
            found.setdefault("parses_per_s", []).append(counts[0] / seconds)
    keys = ["p50_ms", "p99_ms", "p100_ms", "parses_per_s"]
    rows = [
        [interval, *(harness.Spread.of(found[key]).text(1) for key in keys)]
        for interval, found in measured.items()
    ]
    harness.report("switch", conditions, ["switch interval", *keys], rows, measured)


if __name__ == "__main__":
    main()
