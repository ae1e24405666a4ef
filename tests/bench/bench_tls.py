"""What does HTTPS cost: time of a request and of a connection, rate of a stream, memory?

The same service answers both, in turns, one request of each at a time, so that a busy moment of the
machine meets both. Streams come from the echo engine. Memory is that of the service's process: with
TLS off, on, on after a restart (the certificate is there, so `cryptography` is not imported), and
per idle connection.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import harness
import shapes

MODEL = "bench-tls"
TOKENS = 2000
IDLE_CONNECTIONS = 50
KINDS = ("http", "https")

Connect = Callable[[], http.client.HTTPConnection]


def connectors(service: harness.Service) -> dict[str, Connect]:
    body = json.loads(harness.call(service, "GET", "/hearth/v1/tls"))
    pem = harness.call(service, "GET", "/hearth/v1/ca.crt").decode()
    context = ssl.create_default_context(cadata=pem)
    host, port = service.address

    def plain() -> http.client.HTTPConnection:
        return http.client.HTTPConnection(host, port, timeout=60)

    def secure() -> http.client.HTTPConnection:
        return http.client.HTTPSConnection(host, body["port"], timeout=60, context=context)

    return {"http": plain, "https": secure}


def ask_ms(connection: http.client.HTTPConnection) -> float:
    started = time.perf_counter()
    connection.request("GET", "/api/version")
    connection.getresponse().read()
    return (time.perf_counter() - started) * 1e3


def request_times(connect: dict[str, Connect], count: int) -> dict[str, list[float]]:
    """On one kept-alive connection of each."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with contextlib.ExitStack() as stack:
        held = {kind: stack.enter_context(contextlib.closing(connect[kind]())) for kind in KINDS}
        for kind in KINDS:
            ask_ms(held[kind])
        for _ in range(count):
            for kind in KINDS:
                times[kind].append(ask_ms(held[kind]))
    return times


def connection_times(connect: dict[str, Connect], count: int) -> dict[str, list[float]]:
    """A new connection and one request on it."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(count):
        for kind in KINDS:
            with contextlib.closing(connect[kind]()) as connection:
                times[kind].append(ask_ms(connection))
    return times


def stream_rates(connect: dict[str, Connect], count: int) -> dict[str, list[float]]:
    """Tokens per second of one stream."""
    request = {"model": MODEL, "prompt": "[[forever]] a b c", "raw": True}
    request |= {"options": {"num_predict": TOKENS}}
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(count):
        for kind in KINDS:
            with contextlib.closing(connect[kind]()) as connection:
                connection.connect()
                started = time.perf_counter()
                connection.request("POST", "/api/generate", json.dumps(request))
                tokens = connection.getresponse().read().count(b'"response"')
                rates[kind].append(tokens / (time.perf_counter() - started))
    return rates


def idle_kib(service: harness.Service, connect: Connect) -> float:
    """Memory that one idle connection adds."""
    before = harness.resident_mib(service.process())
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            ask_ms(stack.enter_context(contextlib.closing(connect())))
        added = harness.resident_mib(service.process()) - before
    return added * 1024 / IDLE_CONNECTIONS


def memory_rows() -> dict[str, float]:
    """MiB resident, idle, by how the service was started."""
    with tempfile.TemporaryDirectory(prefix="hearth-bench-tls-") as state:
        measured = {}
        for name, tls in (("off", "off"), ("on, first start", "on"), ("on, later starts", "on")):
            port = str(harness.free_port())
            settings = {"HEARTH_TLS": tls, "HEARTH_TLS_PORT": port, "HEARTH_STATE": state}
            with harness.hearth_service(**settings) as service:
                measured[name] = harness.resident_mib(service.process())
    return measured


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    conditions = harness.machine() | {"requests": options.requests, "openssl": ssl.OPENSSL_VERSION}
    memory = memory_rows()
    path = shapes.ensure(shapes.SHAPES["135m"], "Q4_0", options.models)
    settings = {"HEARTH_TLS": "on", "HEARTH_TLS_PORT": str(harness.free_port())}
    with harness.hearth_service(HEARTH_ENGINE="echo", **settings) as service:
        connect = connectors(service)
        harness.create_model(service, MODEL, path)
        kept = request_times(connect, options.requests)
        fresh = connection_times(connect, max(20, options.requests // 10))
        rates = stream_rates(connect, options.streams)
        idle = {kind: idle_kib(service, connect[kind]) for kind in KINDS}
    lines = {
        "request on a kept connection, p50 ms": (kept, 50, 3),
        "request on a kept connection, p99 ms": (kept, 99, 3),
        "connection and request, p50 ms": (fresh, 50, 2),
        "one stream, tokens/s (median)": (rates, 50, 0),
    }
    rows, measured = [], {"memory_mib": memory, "idle_kib": idle}
    for name, (values, percent, digits) in lines.items():
        found = {kind: harness.percentile(values[kind], percent) for kind in KINDS}
        measured[name] = found
        rows.append([name, *(f"{found[kind]:,.{digits}f}" for kind in KINDS)])
    rows.append(["memory of an idle connection, KiB", *(f"{idle[kind]:.0f}" for kind in KINDS)])
    for name, mib in memory.items():
        shown = [f"{mib:.1f}", ""] if name == "off" else ["", f"{mib:.1f}"]
        rows.append([f"service resident, MiB (tls {name})", *shown])
    harness.report("tls", conditions, ["tls", *KINDS], rows, measured)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("HTTPS beside HTTP: latency, streams, memory")
    parser.add_argument("--models", type=Path, default=shapes.default_folder())
    parser.add_argument("--requests", type=int, help="of each; default 2000, with --quick 300")
    parser.add_argument("--streams", type=int, help="of each; default 9, with --quick 3")
    options = parser.parse_args(argv)
    options.requests = options.requests or (300 if options.quick else 2000)
    options.streams = options.streams or (3 if options.quick else 9)
    return options


if __name__ == "__main__":
    main()
