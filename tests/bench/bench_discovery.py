"""How fast is a box found, forgotten and told apart, and what does being found cost?

As root, in network namespaces: avahi on another host is the judge. Start to found is from spawning
`hearth serve` to avahi's resolved line; repaired is from the cable plugged in to the loser resolved
under its new name, after which both are looked up once more.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import harness

from tests.system.lab import Box, Host, Lab, Switch, missing

WINNER, LOSER, WATCHER = "10.99.0.1", "10.99.0.2", "10.99.0.9"
IDS = {WINNER: "0aaaaa0aaaaa", LOSER: "fbbbbbfbbbbb"}
LIMIT_S = 20.0


def wait_ready(box: Box) -> float:
    """When the log says that the port is open, by time.monotonic()."""
    while not box.has_said("ready address"):
        time.sleep(0.001)
    return time.monotonic()


def fresh(host: Host, identity: str) -> Path:
    """A state folder in which nothing but the id is known."""
    state = Path(tempfile.mkdtemp(dir=host.folder))
    (state / "box.json").write_text(json.dumps({"id": identity}))
    return state


def measure_starts(host: Host, watcher: Host, count: int) -> dict[str, list[float]]:
    """Seconds of first starts, of restarts and of stops."""
    found: dict[str, list[float]] = {}
    names = ("first start", "first, from open port", "gone", "restart", "restart, from open port")
    for name in names:
        found[name] = []
    with watcher.browse() as browse:
        for _ in range(count):
            state = fresh(host, IDS[WINNER])
            gone = 0.0
            for kind in ("first", "restart"):
                box = host.start_box(state=state, wait=False, name="Kitchen")
                ready = wait_ready(box)
                resolved = browse.wait("=", "Kitchen", WINNER, after=box.started_at)
                whole = "first start" if kind == "first" else "restart"
                found[whole].append(resolved - box.started_at)
                found[f"{kind}, from open port"].append(max(0.0, resolved - ready))
                time.sleep(2.0)  # so that the next goodbye is one for something settled
                stopped = time.monotonic()
                box.stop()
                gone = browse.wait("-", "Kitchen", after=stopped)
                found["gone"].append(gone - stopped)
    return found


def measure_merges(
    switch: Switch, winner: Host, watcher: Host, lab: Lab, count: int
) -> tuple[list[float], int]:
    """Seconds until the loser of a merge is found anew, and how many ended as they should."""
    loser = lab.host("loser", switch, f"{LOSER}/24")
    first = winner.start_box(state=fresh(winner, IDS[WINNER]), name="Kitchen")
    first.wait_said("announced")
    times, good = [], 0
    for _ in range(count):
        winner.cable(False)
        while not first.get("/hearth/v1/status")[1]["discovery"]["problem"]:
            time.sleep(0.02)
        second = loser.start_box(state=fresh(loser, IDS[LOSER]), name="Kitchen")
        second.wait_said("announced")
        with watcher.browse() as browse:
            browse.wait("=", "Kitchen", LOSER)
            plugged = time.monotonic()
            winner.cable(True)
            times.append(browse.wait("=", "Kitchen (2)", LOSER, after=plugged) - plugged)
        time.sleep(1.5)  # what avahi was told to forget is gone after a second
        apart = watcher.resolve(first.host_name) == WINNER
        apart &= watcher.resolve(second.host_name) == LOSER
        good += apart and first.name == "Kitchen" and second.name == "Kitchen (2)"
        second.stop()
    first.stop()
    return times, good


def measure_cost(host: Host, seconds: float) -> dict[str, tuple[float, float, float]]:
    """Resident MiB, proportional MiB and percent of a core of an idle service, on and off."""
    found = {}
    for word in ("off", "on"):
        box = host.start_box(state=fresh(host, IDS[WINNER]), name="Kitchen", discovery=word)
        time.sleep(6.0)
        pid = box.process.pid
        before, began = harness.cpu_s(pid), time.monotonic()
        time.sleep(seconds)
        share = (harness.cpu_s(pid) - before) / (time.monotonic() - began) * 100
        found[word] = (harness.resident_mib(pid), harness.proportional_mib(pid), share)
        box.stop()
    return found


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    if reason := missing():
        print(f"\n## discovery\n\nskipped: {reason}")
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the lab is taken down then too
    conditions = harness.machine() | {"starts": options.starts, "merges": options.merges}
    rows: list[list[str]] = []
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="disc-bench-") as folder, Lab(folder) as lab:
        switch = lab.switch()
        watcher = lab.host("watcher", switch, f"{WATCHER}/24")
        watcher.start_avahi()
        host = lab.host("box", switch, f"{WINNER}/24")
        for what, times in measure_starts(host, watcher, options.starts).items():
            _add(rows, measured, what, times)
        if options.merges:
            times, good = measure_merges(switch, host, watcher, lab, options.merges)
            _add(rows, measured, "merge repaired", times)
            rows.append(["both resolved after a merge", f"{good} of {len(times)}", "", ""])
            measured["merges_good"] = good
        if options.seconds:
            cost = measure_cost(host, options.seconds)
            for word, (resident, proportional, share) in cost.items():
                rows.append([f"discovery {word}: resident MiB", f"{resident:.1f}", "",
                             f"PSS {proportional:.1f}"])  # fmt: skip
                rows.append([f"discovery {word}: CPU, % of a core", f"{share:.2f}", "", ""])
            measured["cost"] = cost
    harness.report("discovery", conditions, ["seconds", "median", "p95", "worst"], rows, measured)


def _add(rows: list[list[str]], measured: dict[str, Any], what: str, times: list[float]) -> None:
    if times:
        spread, p95 = harness.Spread.of(times), harness.percentile(times, 95)
        rows.append([what, f"{spread.median:.3f}", f"{p95:.3f}", f"{spread.high:.3f}"])
        measured[what] = times


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("Found, forgotten, told apart, and what that costs")
    parser.add_argument("--starts", type=int, help="default 20, with --quick 3")
    parser.add_argument("--merges", type=int, help="default 100, with --quick 3")
    parser.add_argument("--seconds", type=float, help="idle time; default 30, with --quick 5")
    options = parser.parse_args(argv)
    for name, usual, quick in (("starts", 20, 3), ("merges", 100, 3), ("seconds", 30.0, 5.0)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else usual)
    return options


if __name__ == "__main__":
    main()
