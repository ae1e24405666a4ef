"""How much can the service itself carry? The echo engine answers, so the model costs nothing.

The load comes from this process over kept-alive connections on loopback; on two cores the client
takes a good part of them, so these are lower bounds of the service.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import harness
import shapes

MODEL = "bench-service"
TOKENS_PER_STREAM = 256

Ask = Callable[[aiohttp.ClientSession], Awaitable[int]]  # one request; how many tokens it brought


def generate(prompt: str, count: int, *, stream: bool) -> Ask:
    request = {"model": MODEL, "prompt": prompt, "raw": True, "stream": stream}
    request |= {"options": {"num_predict": count}, "keep_alive": "1h"}

    async def ask(client: aiohttp.ClientSession) -> int:
        async with client.post("/api/generate", json=request) as response:
            response.raise_for_status()
            body = await response.read()
        return body.count(b'"response"') if stream else 1

    return ask


async def version(client: aiohttp.ClientSession) -> int:
    async with client.get("/api/version") as response:
        response.raise_for_status()
        await response.read()
    return 1


async def rate(url: str, ask: Ask, streams: int, seconds: float) -> tuple[float, float]:
    """Requests and tokens per second of `streams` clients that each ask one after the other."""
    counted: list[int] = []
    connector = aiohttp.TCPConnector(limit=streams)
    async with aiohttp.ClientSession(url, connector=connector) as client:
        await ask(client)
        started = time.perf_counter()
        deadline = started + seconds

        async def keep_asking() -> None:
            while time.perf_counter() < deadline:
                counted.append(await ask(client))

        await asyncio.gather(*(keep_asking() for _ in range(streams)))
        elapsed_s = time.perf_counter() - started
    return len(counted) / elapsed_s, sum(counted) / elapsed_s


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    conditions = harness.machine() | {"streams": options.streams, "seconds": options.seconds}
    path = shapes.ensure(shapes.SHAPES["135m"], "Q4_0", options.models)
    asks: dict[str, Ask] = {
        "/api/version": version,
        "generate, one answer": generate("hello", 1, stream=False),
        "generate, streamed": generate("[[forever]] a b c", TOKENS_PER_STREAM, stream=True),
    }
    rows: list[list[str]] = []
    measured: dict[str, Any] = {}
    with harness.hearth_service(HEARTH_ENGINE="echo", HEARTH_MAX_QUEUE="1000") as service:
        harness.create_model(service, MODEL, path)
        for name, ask in asks.items():
            found = asyncio.run(rate(service.url, ask, options.streams, options.seconds))
            tokens = f"{found[1]:,.0f}" if "streamed" in name else ""
            rows.append([name, f"{found[0]:,.0f}", tokens])
            measured[name] = found
    harness.report("service", conditions, ["echo engine", "requests/s", "tokens/s"], rows, measured)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("Requests and tokens per second of the service with the echo engine")
    parser.add_argument("--models", type=Path, default=shapes.default_folder())
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, help="per row; default 10, with --quick 3")
    options = parser.parse_args(argv)
    options.seconds = options.seconds or (3.0 if options.quick else 10.0)
    return options


if __name__ == "__main__":
    main()
