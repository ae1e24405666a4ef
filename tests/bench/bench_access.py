"""What does asking "who are you" cost a request, and does the answer's time tell anything?

Two services answer the small route /api/status one after the other, each over its own kept-alive
connection: one as it is, asked as a guest and with a key, and one whose middleware http/access.py
lets everything pass. The time is the client's; two processes differ by some hundredths of a
millisecond by themselves. Then, in this process, the question alone (ring, key, scopes), and the
look-up of a token among 500 keys: a right one, a wrong secret of a known id, an unknown id.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import harness

ROUTE = "/api/status"
BAR_MS = 0.3  # at the median
KEYS = 500


def serve_bare() -> None:
    """`hearth serve` whose middleware for access passes everything on."""
    from aiohttp import web

    import appliance.http.app as app
    from appliance.config import load_settings
    from appliance.http.access import Handler
    from appliance.service import serve

    @web.middleware
    async def passes(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await handler(request)

    app.admit = passes
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


class Client:
    """One kept-alive connection; `ask` gives the milliseconds of one request."""

    def __init__(self, service: harness.Service, headers: Mapping[str, str]) -> None:
        self._connection = http.client.HTTPConnection(*service.address, timeout=30.0)
        self._headers = dict(headers)

    def ask(self) -> float:
        started = time.perf_counter()
        self._connection.request("GET", ROUTE, headers=self._headers)
        response = self._connection.getresponse()
        response.read()
        elapsed_ms = (time.perf_counter() - started) * 1e3
        if response.status != 200:
            raise SystemExit(f"{ROUTE} was answered {response.status}")
        return elapsed_ms


def request_times_ms(requests: int) -> dict[str, list[float]]:
    with harness.hearth_service(HEARTH_ENGINE="echo") as full, bare_service() as bare:
        wanted = json.dumps({"name": "bench", "scopes": ["chat"]})
        made = json.loads(harness.call(full, "POST", "/hearth/v1/keys", body=wanted))
        with_key = {"Authorization": f"Bearer {made['secret']}"}
        clients = {
            "no question": Client(bare, {}),
            "guest": Client(full, {}),
            "key": Client(full, with_key),
        }
        times: dict[str, list[float]] = {name: [] for name in clients}
        order = list(clients)
        shuffle = random.Random(1).shuffle
        for _ in range(requests):
            shuffle(order)
            for name in order:
                times[name].append(clients[name].ask())
    return {name: found[len(found) // 10 :] for name, found in times.items()}


async def alone_us(tries: int) -> dict[str, list[float]]:
    """The question, and `Keys.find` within it, in microseconds; all kinds in turns."""
    from appliance.access.access import Access
    from appliance.access.caller import Caller, KeyFacts, Ring, Scope
    from appliance.config import load_settings
    from appliance.db import Database
    from appliance.network import Network

    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as state:
        settings = load_settings({"state": state}, {}, None)
        access = Access(settings, Database(Path(state)), Network())
        await access.open()
        facts = KeyFacts("", "bench", frozenset({Scope.CHAT}))
        tokens = [(await access.create_key(facts))[1] for _ in range(KEYS)]
        await access.close()
    right = tokens[KEYS // 2]
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    phone = Caller("192.168.1.7", Ring.LAN)

    def ask(token: str) -> None:
        access.require(access.identify(phone, token, "user"), Scope.CHAT)

    kinds: dict[str, Callable[[], object]] = {
        "question, guest": lambda: ask("ollama"),
        "question, key": lambda: ask(right),
        "look-up, right": lambda: access.keys.find(right),
        "look-up, wrong secret": lambda: access.keys.find(wrong),
        "look-up, unknown id": lambda: access.keys.find("hearth_00000000" + right[15:]),
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    order = list(kinds)
    for _ in range(tries):
        random.shuffle(order)
        for name in order:
            started = time.perf_counter_ns()
            kinds[name]()
            times[name].append((time.perf_counter_ns() - started) / 1e3)
    return times


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    if options.serve_bare:
        serve_bare()
        return
    conditions = harness.machine() | {"requests": options.requests, "keys": KEYS}
    times = request_times_ms(options.requests)
    alone = asyncio.run(alone_us(options.requests * 10))
    rows = [_row(f"request, {name}, ms", found) for name, found in times.items()]
    rows += [_row(f"{name}, µs", found) for name, found in alone.items()]
    base_ms = harness.percentile(times["no question"], 50)
    added = {name: harness.percentile(times[name], 50) - base_ms for name in ("guest", "key")}
    rows += [[f"{name} adds, ms", f"{ms:.3f}", "", ""] for name, ms in added.items()]
    figure = harness.Figure("a key adds, p50", added["key"], BAR_MS, is_limit=True, unit="ms")
    headers = ["what", "p50", "p95", "p99"]
    harness.report("access", conditions, headers, rows, {"added_ms": added}, [figure])


def _row(name: str, found: list[float]) -> list[str]:
    return [name, *(f"{harness.percentile(found, percent):.3f}" for percent in (50, 95, 99))]


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("What the question for the caller adds to a request")
    parser.add_argument("--requests", type=int, help="of each kind; default 4000, with --quick 500")
    parser.add_argument("--serve-bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    options.requests = options.requests or (500 if options.quick else 4000)
    return options


if __name__ == "__main__":
    main()
