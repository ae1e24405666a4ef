"""Does the control plane stay quick while a model uses every core?

`/api/version` is asked on one kept-alive connection, first of the idle service, then while one
stream of the 0.5B shape generates with a thread per core. The time is the client's.
"""

from __future__ import annotations

import argparse
import http.client
import os
import threading
import time
from pathlib import Path

import harness
import shapes
from streams import stream

MODEL = "bench-latency"
PAUSE_S = 0.01  # between two requests


def version_times_ms(service: harness.Service, seconds: float) -> list[float]:
    connection = http.client.HTTPConnection(*service.address, timeout=30.0)
    times = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        asked = time.perf_counter()
        connection.request("GET", "/api/version")
        connection.getresponse().read()
        times.append((time.perf_counter() - asked) * 1e3)
        time.sleep(PAUSE_S)
    connection.close()
    return times


class Generating:
    """A stream that runs in the background while the `with` block does."""

    def __init__(self, service: harness.Service, threads: int) -> None:
        self._service = service
        self._threads = threads
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Generating:
        self._ask(1)  # loads the model
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._ask(256)

    def _ask(self, count: int) -> None:
        options = {"num_predict": count, "num_ctx": 1024, "num_thread": self._threads}
        request = {"model": MODEL, "prompt": " a b c", "raw": True, "options": options}
        stream(self._service.address, "/api/generate", request)


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    conditions = harness.machine() | {"threads": options.threads, "seconds": options.seconds}
    path = shapes.ensure(shapes.SHAPES["0.5b"], "Q4_0", options.models)
    measured = {}
    with harness.hearth_service() as service:
        harness.create_model(service, MODEL, path)
        measured["idle"] = version_times_ms(service, options.seconds)
        with Generating(service, options.threads):
            measured["generating"] = version_times_ms(service, options.seconds)
    rows = []
    for name, times in measured.items():
        figures = [harness.percentile(times, 50), harness.percentile(times, 99), max(times)]
        rows.append([name, str(len(times)), *(f"{ms:.2f}" for ms in figures)])
    headers = ["/api/version, ms", "requests", "p50", "p99", "max"]
    harness.report("latency", conditions, headers, rows, measured)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("Latency of /api/version while a model generates")
    parser.add_argument("--models", type=Path, default=shapes.default_folder())
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, help="per state; default 15, with --quick 4")
    options = parser.parse_args(argv)
    options.seconds = options.seconds or (4.0 if options.quick else 15.0)
    return options


if __name__ == "__main__":
    main()
