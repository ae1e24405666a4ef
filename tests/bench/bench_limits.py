"""What do keys and limits cost a request? The same service with and without them, in turns.

Two services with the echo engine answer the same requests one after the other, each over its own
kept-alive connection: one as it is, asked with a key that has a rate, a daily budget and users;
one whose two middlewares (http/access.py, http/limits.py) let everything pass. The time is the
client's, so it holds everything that a caller notices.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import harness
import shapes

MODEL = "bench-limits"
BAR_MS = 0.3  # at the median
USERS = 20
REQUEST = {"model": MODEL, "prompt": "hello", "raw": True, "stream": False}
REQUEST |= {"options": {"num_predict": 1}, "keep_alive": "1h"}


def serve_bare() -> None:
    """`hearth serve` whose middlewares for keys and limits pass everything on."""
    from aiohttp import web

    import appliance.http.app as app
    from appliance.config import load_settings
    from appliance.service import serve

    @web.middleware
    async def passes(request: web.Request, handler: app.Handler) -> web.StreamResponse:
        return await handler(request)

    app.admit = app.limit = passes
    serve(load_settings())


@contextlib.contextmanager
def bare_service(**settings: str) -> Iterator[harness.Service]:
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as state:
        address = f"127.0.0.1:{harness.free_port()}"
        environment = os.environ | {"HEARTH_HOST": address, "HEARTH_STATE": state, **settings}
        environment |= {"PYTHONPATH": str(harness.REPOSITORY), "HEARTH_DISCOVERY": "off"}
        command = [sys.executable, __file__, "--serve-bare"]
        with harness.server(command, f"http://{address}", "/readyz", environment) as service:
            yield service


def key_of(service: harness.Service) -> str:
    """A key with every limit that there is, none of which will be reached."""
    limits = {"rate_per_minute": 10**6, "tokens_per_day": 10**9}
    wanted = {"name": "bench", "scopes": ["chat"], **limits}
    answer = harness.call(service, "POST", "/hearth/v1/keys", body=json.dumps(wanted))
    return str(json.loads(answer)["secret"])


class Client:
    """One kept-alive connection; `ask` gives the milliseconds of one request."""

    def __init__(self, service: harness.Service, headers: Mapping[str, str]) -> None:
        self._connection = http.client.HTTPConnection(*service.address, timeout=30.0)
        self._headers = {"Content-Type": "application/json", **headers}
        self._body = json.dumps(REQUEST)

    def ask(self, number: int) -> float:
        user = {"X-OpenWebUI-User-Id": f"user{number % USERS}"}
        started = time.perf_counter()
        self._connection.request("POST", "/api/generate", self._body, self._headers | user)
        response = self._connection.getresponse()
        response.read()
        elapsed_ms = (time.perf_counter() - started) * 1e3
        if response.status != 200:
            raise SystemExit(f"a request was answered {response.status}")
        return elapsed_ms


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    if options.serve_bare:
        serve_bare()
        return
    conditions = harness.machine() | {"requests": options.requests, "users": USERS}
    path = shapes.ensure(shapes.SHAPES["135m"], "Q4_0", options.models)
    settings = {"HEARTH_ENGINE": "echo", "HEARTH_USER_RATE_PER_MINUTE": "1000000"}
    with harness.hearth_service(**settings) as full, bare_service(**settings) as bare:
        for service in (full, bare):
            harness.create_model(service, MODEL, path)
        headers = {"Authorization": f"Bearer {key_of(full)}"}
        clients = {"with": Client(full, headers), "without": Client(bare, headers)}
        times: dict[str, list[float]] = {name: [] for name in clients}
        for number in range(options.requests):
            order = list(clients) if number % 2 else list(reversed(clients))
            for name in order:
                times[name].append(clients[name].ask(number))
    warm = {name: found[len(found) // 10 :] for name, found in times.items()}
    rows = []
    for name, found in warm.items():
        figures = [harness.percentile(found, percent) for percent in (50, 95, 99)]
        rows.append([name, *(f"{ms:.3f}" for ms in figures)])
    added_ms = harness.percentile(warm["with"], 50) - harness.percentile(warm["without"], 50)
    rows.append(["added at the median", f"{added_ms:.3f}", "", ""])
    headers_row = ["keys and limits, ms", "p50", "p95", "p99"]
    figure = harness.Figure("keys and limits add, p50", added_ms, BAR_MS, is_limit=True, unit="ms")
    harness.report("limits", conditions, headers_row, rows, {"added_ms": added_ms}, [figure])


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("What keys and limits add to a request")
    parser.add_argument("--models", type=Path, default=shapes.default_folder())
    parser.add_argument("--requests", type=int, help="of each; default 4000, with --quick 500")
    parser.add_argument("--serve-bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.requests = options.requests or (500 if options.quick else 4000)
    return options


if __name__ == "__main__":
    main()
