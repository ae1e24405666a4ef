"""What does the service cost while nobody asks: memory, start to ready, CPU?

Measured on the process of `hearth serve` alone and again with one loaded, idle worker beside it.
Start to ready is from spawning the process to the first 200 of /readyz.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import harness
import shapes

MODEL = "bench-idle"
SETTLE_S = 2.0  # after loading, before CPU time is compared


def start_times(count: int) -> list[float]:
    times = []
    for _ in range(count):
        with harness.hearth_service() as service:
            times.append(service.ready_s)
    return times


def cpu_shares(pids: list[int], seconds: float) -> list[float]:
    """Percent of one core that each process uses while nothing is asked of it."""
    time.sleep(SETTLE_S)
    before = [harness.cpu_s(pid) for pid in pids]
    started = time.perf_counter()
    time.sleep(seconds)
    elapsed_s = time.perf_counter() - started
    return [
        (harness.cpu_s(pid) - used) / elapsed_s * 100
        for pid, used in zip(pids, before, strict=True)
    ]


def load(service: harness.Service, folder: Path) -> int:
    """Load a model by an empty prompt (Ollama API, /api/generate); its worker's process id."""
    path = shapes.ensure(shapes.SHAPES["135m"], "Q4_0", folder)
    harness.create_model(service, MODEL, path)
    request = {"model": MODEL, "prompt": " a b c", "raw": True, "keep_alive": "1h", "stream": False}
    request |= {"options": {"num_predict": 8}}
    harness.call(service, "POST", "/api/generate", body=json.dumps(request))
    (worker,) = harness.children(service.process())
    return worker


def import_table(count: int) -> None:
    """Print what `hearth serve` imports before it listens, slowest first (python -X importtime)."""
    command = [sys.executable, "-X", "importtime", "-c", "import appliance.service"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=harness.REPOSITORY
    )
    found = []
    for line in done.stderr.splitlines()[1:]:
        own_us, cumulative_us, name = line.removeprefix("import time:").split("|")
        found.append((int(cumulative_us), int(own_us), name.strip()))
    slowest = sorted(found, reverse=True)[:count]
    rows = [[name, f"{all_us / 1e3:.1f}", f"{us / 1e3:.1f}"] for all_us, us, name in slowest]
    harness.print_table(["import", "with its own imports, ms", "alone, ms"], rows)


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    if options.imports:
        import_table(options.imports)
        return
    conditions = harness.machine() | {"starts": options.starts, "idle_s": options.seconds}
    start = harness.Spread.of(start_times(options.starts))
    rows = [["start to ready, s", start.text(2), ""]]
    with harness.hearth_service() as service:
        alone = service.process()
        (alone_cpu,) = cpu_shares([alone], options.seconds)
        memory = [harness.resident_mib(alone), harness.proportional_mib(alone)]
        worker = load(service, options.models)
        beside_cpu, worker_cpu = cpu_shares([alone, worker], options.seconds)
        beside_memory = [harness.resident_mib(alone), harness.proportional_mib(alone)]
        worker_memory = [harness.resident_mib(worker), harness.proportional_mib(worker)]
    processes = {
        "service, no model": (alone_cpu, memory),
        "service, one model loaded": (beside_cpu, beside_memory),
        "worker, idle (135M Q4_0)": (worker_cpu, worker_memory),
    }
    measured = {"start_to_ready_s": start.median}
    for name, (cpu, (resident, proportional)) in processes.items():
        rows.append([f"{name}: resident, MiB", f"{resident:.1f}", f"PSS {proportional:.1f}"])
        rows.append([f"{name}: CPU, % of a core", f"{cpu:.2f}", ""])
        measured |= {f"{name} rss_mib": resident, f"{name} cpu_percent": cpu}
    harness.report("idle", conditions, ["idle", "measured", ""], rows, measured)


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("Memory, start and CPU of the idle service")
    parser.add_argument("--models", type=Path, default=shapes.default_folder())
    parser.add_argument("--starts", type=int, help="default 7, with --quick 3")
    parser.add_argument("--seconds", type=float, help="idle time; default 30, with --quick 5")
    parser.add_argument("--imports", type=int, metavar="N", help="only show the N slowest imports")
    options = parser.parse_args(argv)
    options.starts = options.starts or (3 if options.quick else 7)
    options.seconds = options.seconds or (5.0 if options.quick else 30.0)
    return options


if __name__ == "__main__":
    main()
