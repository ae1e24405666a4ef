"""What every benchmark shares: the machine's description, a running service, tables, results.

Knows how to start `hearth serve` and how to read what Linux says about a process; knows nothing
of what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import http.client
import importlib.metadata
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results"
READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
READY_POLL_S = 0.005
BUSY_LOAD = 0.25  # running processes per core from which on decode threads wait for others
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


# -- the machine -----------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """The conditions of a run: hardware, kernel, commit, versions, load average before it."""
    return {
        "cpu": _proc_value("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(_proc_value("/proc/meminfo", "MemTotal").split()[0]) / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": {name: _version(name) for name in ("aiohttp", "llama-cpp-python", "msgspec")},
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def torch_conditions(device: Any) -> dict[str, Any]:
    """The device and the versions that decide what it does."""
    import torch

    names = ("torch", "triton", "transformers")
    found: dict[str, Any] = {"device": "cpu", "versions": {name: _version(name) for name in names}}
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
    return found


def _proc_value(path: str, key: str) -> str:
    lines = Path(path).read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _commit() -> str:
    describe = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(describe, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # a bare machine with a GPU may have no git
        return "unknown"
    return found.stdout.strip() or "unknown"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# -- a service to measure --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Service:
    """A server under measurement; `pid` is None when it was started by somebody else."""

    url: str
    pid: int | None
    ready_s: float  # from spawning the process to the first 200 of its readiness path

    @property
    def address(self) -> tuple[str, int]:
        parts = urllib.parse.urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or 80

    def process(self) -> int:
        """The process id, for what only makes sense on a service that we started."""
        if self.pid is None:
            raise SystemExit(f"{self.url} was not started here, its process cannot be measured")
        return self.pid


@contextlib.contextmanager
def hearth_service(**settings: str) -> Iterator[Service]:
    """`hearth serve` with an empty state folder on a free loopback port; stopped on leaving.

    settings: more of its environment, for instance HEARTH_ENGINE="echo".
    """
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as state:
        address = f"127.0.0.1:{free_port()}"
        environment = os.environ | {
            "HEARTH_HOST": address,
            "HEARTH_STATE": state,
            "HEARTH_DISCOVERY": "off",
            **settings,
        }
        command = [sys.executable, "-m", "appliance", "serve"]
        with server(command, f"http://{address}", "/readyz", environment) as service:
            yield service


@contextlib.contextmanager
def server(
    command: Sequence[str | Path],
    url: str,
    ready: str,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """Run `command` until the block ends; the path `ready` answers 200 before it begins.

    Its output goes to a file that is shown only when it does not become ready. SIGTERM ends the
    benchmark like Ctrl+C, so that no server outlives it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryFile("w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log, text=True
        )
        try:
            if not _wait_until_ready(process, url + ready, started + READY_TIMEOUT_S):
                log.seek(0)
                raise SystemExit(f"{command[0]} did not become ready:\n{log.read()[-4000:]}")
            yield Service(url, process.pid, time.perf_counter() - started)
        finally:
            _stop(process)


def _wait_until_ready(process: subprocess.Popen[str], url: str, deadline: float) -> bool:
    parts = urllib.parse.urlsplit(url)
    while time.perf_counter() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection(parts.netloc, timeout=1.0)
        try:
            connection.request("GET", parts.path)
            if connection.getresponse().status == 200:
                return True
        except (OSError, http.client.HTTPException):
            pass  # not listening yet
        finally:
            connection.close()
        time.sleep(READY_POLL_S)
    return False


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def create_model(service: Service, name: str, path: Path, **parameters: Any) -> str:
    """Upload a GGUF file and make the model `name` of it, by Ollama's API (blobs, create).

    Returns the blob's digest, `sha256:<hex>`.
    """
    with path.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    with path.open("rb") as file:
        size = {"Content-Length": str(path.stat().st_size)}
        call(service, "POST", f"/api/blobs/{digest}", body=file, headers=size)
    request = {"model": name, "files": {path.name: digest}, "parameters": parameters}
    last = json.loads(
        call(service, "POST", "/api/create", body=json.dumps(request)).splitlines()[-1]
    )
    if last.get("status") != "success":
        raise SystemExit(f"creating {name} from {path} failed: {last}")
    return digest


def unload(service: Service, name: str) -> None:
    """Free the model's memory (Ollama API, /api/generate with keep_alive 0)."""
    request = {"model": name, "prompt": "", "keep_alive": 0, "stream": False}
    call(service, "POST", "/api/generate", body=json.dumps(request))


def call(
    service: Service, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}
) -> bytes:
    """The whole body of one answer. Ends the benchmark with its text unless the status is 2xx."""
    connection = http.client.HTTPConnection(*service.address, timeout=300.0)
    with contextlib.closing(connection):
        connection.request(method, path, body=body, headers=dict(headers))
        response = connection.getresponse()
        answer = response.read()
    if response.status // 100 != 2:
        raise SystemExit(f"{method} {path} answered {response.status}: {answer.decode()[:500]}")
    return answer


# -- processes -------------------------------------------------------------------------------------


def resident_mib(pid: int) -> float:
    return int(_proc_value(f"/proc/{pid}/status", "VmRSS").split()[0]) / 1024


def proportional_mib(pid: int) -> float:
    """Resident memory with shared pages divided among their users."""
    return int(_proc_value(f"/proc/{pid}/smaps_rollup", "Pss").split()[0]) / 1024


def cpu_s(pid: int) -> float:
    """User and system time that the process has used so far."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(after_name[11]) + int(after_name[12])) / CLOCK_TICKS_PER_S


def children(pid: int) -> list[int]:
    """The process ids of the direct children, of all threads of `pid`."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in listing.read_text().split()]
    return found


# -- figures ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spread:
    """What to say about repeated measurements of one thing."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of all values do not exceed."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))  # ceiling, without importing math
    return ordered[int(rank) - 1]


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table with aligned columns; all but the first column are right-aligned."""
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    for row in [headers, rule, *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("| " + " | ".join(cells) + " |")


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a benchmark that a table of all of them shows."""

    what: str
    value: float
    bar: float | None = None
    is_limit: bool = False  # the bar is the most that is allowed, not the least
    unit: str = ""

    @property
    def held(self) -> str:
        if self.bar is None:
            return ""
        return (
            "yes" if (self.value <= self.bar) == self.is_limit or self.value == self.bar else "NO"
        )


def report(
    benchmark: str, conditions: Mapping[str, Any], headers: Sequence[str],
    rows: Sequence[Sequence[str]], measured: Any, figures: Sequence[Figure] = (),
) -> None:  # fmt: skip
    """Print conditions and one table, and append one JSON line to results/<benchmark>.jsonl.

    conditions begin with `machine()`, taken before the measurement; measured is every figure, and
    `figures` are the few of them for `gpu_table.py`, which sets HEARTH_BENCH_RESULTS.
    """
    print(f"\n## {benchmark}\n")
    for key, value in conditions.items():
        print(f"{key}: {value}")
    if conditions["load_before"][0] > conditions["cores"] * BUSY_LOAD:
        print("The machine was busy before the run: repeat it when it is quiet.")
    print()
    print_table(headers, rows)
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **conditions}
    line |= {"measured": measured, "figures": [dataclasses.asdict(figure) for figure in figures]}
    append_result(benchmark, line)


def append_result(benchmark: str, line: Mapping[str, Any]) -> None:
    folder = Path(os.environ.get("HEARTH_BENCH_RESULTS") or RESULTS)
    folder.mkdir(exist_ok=True)
    with (folder / f"{benchmark}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the option that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, rough figures")
    return parser
