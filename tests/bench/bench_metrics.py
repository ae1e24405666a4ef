"""What does counting cost: per request, per piece of text, and per reading of /metrics?

The first two on the counting code alone, in this process; the readings over HTTP from an idle
service with one loaded model, as Prometheus would ask every 15 seconds.
"""

from __future__ import annotations

import argparse
import json
import time
import timeit
from types import SimpleNamespace

import harness
import shapes

from appliance.chat.events import Done, Started, Text
from appliance.http.context import METRICS
from appliance.http.counting import JobClock, note_request
from appliance.metrics import Metrics

MODEL = "bench-metrics"
ROUTES = ("/metrics", "/hearth/v1/device", "/hearth/v1/doctor", "/hearth/v1/status")


def counting_us(rounds: int) -> dict[str, float]:
    """Microseconds of each call that counts."""
    metrics = Metrics()
    resource = SimpleNamespace(canonical="/api/chat")
    route = SimpleNamespace(route=SimpleNamespace(resource=resource))
    request = SimpleNamespace(match_info=route, app={METRICS: metrics})
    clock = JobClock(metrics, "llama3.2:3b", 1.0)
    clock.note(Started(queue_position=0, queue_ns=1000, load_ns=0, slots=8), 1.5)
    text, done = Text("a", (), 1), Done(reason="stop", total_ns=1, output_tokens=9)
    calls = {
        "one request": lambda: note_request(request, 200, 0.02),
        "one piece of text": lambda: clock.note(text, 2.0),
        "one job's begin and end": lambda: (JobClock(metrics, "llama3.2:3b", 1.0).note(done, 2.0),),
    }
    return {
        name: min(timeit.repeat(call, number=rounds, repeat=5)) / rounds * 1e6
        for name, call in calls.items()
    }


def reading_ms(service: harness.Service, path: str, count: int) -> harness.Spread:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        harness.call(service, "GET", path)
        times.append((time.perf_counter() - started) * 1e3)
    return harness.Spread.of(times)


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    conditions = harness.machine() | {"rounds": options.rounds, "readings": options.readings}
    rows, measured = [], {}
    for name, spent_us in counting_us(options.rounds).items():
        rows.append([name, f"{spent_us:.2f} us"])
        measured[f"{name}, us"] = spent_us
    with harness.hearth_service(HEARTH_ENGINE="echo") as service:
        path = shapes.ensure(shapes.SHAPES["135m"], "Q4_0", shapes.default_folder())
        harness.create_model(service, MODEL, path)
        body = {"model": MODEL, "prompt": "a b c", "raw": True, "stream": False}
        harness.call(service, "POST", "/api/generate", body=json.dumps(body))
        for path_asked in ROUTES:
            spread = reading_ms(service, path_asked, options.readings)
            rows.append([f"GET {path_asked}", f"{spread.text(2)} ms"])
            measured[f"{path_asked}, ms"] = spread.median
    harness.report("metrics", conditions, ["counting and reading", "measured"], rows, measured)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("Cost of counting and of reading what was counted")
    parser.add_argument("--rounds", type=int, help="default 200000, with --quick 20000")
    parser.add_argument("--readings", type=int, help="default 100, with --quick 20")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (20_000 if options.quick else 200_000)
    options.readings = options.readings or (20 if options.quick else 100)
    return options


if __name__ == "__main__":
    main()
