"""What does installing a model of 1 GiB cost: time, quiet of the service, loss by a kill?

A docker-registry on loopback has it. Pulls by the service and downloads by curl with sha256sum
afterwards alternate; meanwhile the service is asked for /healthz every 5 ms by another
process, whose times are the stalls that a client sees. The same model, signed, is imported from a
folder under the same eyes. Then one pull is killed at half. `--vocab` makes the header as long as
that of a real model, which Python parses.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import harness

sys.path.insert(0, str(harness.REPOSITORY))

from tests.fakes.docker_registry import DockerRegistry, start_docker_registry
from tests.fakes.gguf_builder import tiny_llama_bytes
from tests.fakes.publisher import Publisher
from tests.integration import medium_box

MIB = 1 << 20
PAUSE_S = 0.005  # between two questions
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


# -- the registry ------------------------------------------------------------------------------


def publish(registry: DockerRegistry, weights: bytes) -> str:
    """Put a model there, under library/m:1; returns the digest of its weights."""
    digest = _upload(registry, weights)
    config = _upload(registry, b"{}")
    layer = {
        "mediaType": "application/vnd.ollama.image.model",
        "digest": digest,
        "size": len(weights),
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": config,
            "size": 2,
        },
        "layers": [layer],
    }
    _ask(
        registry.address,
        "PUT",
        "/v2/library/m/manifests/1",
        json.dumps(manifest).encode(),
        {"Content-Type": MANIFEST_TYPE},
    )
    return digest


def _upload(registry: DockerRegistry, data: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    location = _ask(registry.address, "POST", "/v2/library/m/blobs/uploads/", b"", {})
    path = location.split(registry.address, 1)[-1]
    _ask(registry.address, "PUT", f"{path}&digest={digest}", data, {})
    return digest


def _ask(address: str, method: str, path: str, body: bytes, headers: dict[str, str]) -> str:
    """The Location of a successful answer."""
    connection = http.client.HTTPConnection(address, timeout=120.0)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
    if answer.status // 100 != 2:
        raise SystemExit(f"{method} {path} answered {answer.status}: {text[:300]!r}")
    return answer.headers.get("Location", "")


# -- pulls -------------------------------------------------------------------------------------


def progress(service: harness.Service, model: str) -> Iterator[dict[str, Any]]:
    """The lines of a pull."""
    connection = http.client.HTTPConnection(*service.address, timeout=300.0)
    with contextlib.closing(connection):
        connection.request("POST", "/api/pull", json.dumps({"model": model}))
        answer = connection.getresponse()
        for line in answer:
            yield json.loads(line)


def pull_s(service: harness.Service, model: str) -> float:
    began = time.perf_counter()
    last = list(progress(service, model))[-1]
    if last.get("status") != "success":
        raise SystemExit(f"the pull failed: {last}")
    return time.perf_counter() - began


def curl_s(url: str, folder: Path) -> float:
    """curl to a file, then sha256sum of it."""
    path = folder / "blob"
    began = time.perf_counter()
    subprocess.run(["curl", "-sS", "-o", path, url], check=True)
    subprocess.run(["sha256sum", path], check=True, stdout=subprocess.DEVNULL)
    took = time.perf_counter() - began
    path.unlink()
    return took


# -- a stick -----------------------------------------------------------------------------------


def make_stick(folder: Path, state: Path, weights: bytes) -> Path:
    """A publisher's folder with a signed release of these weights, which a box with this state
    folder trusts."""
    publisher = Publisher(folder)
    # the echo engine takes it; llama.cpp would refuse the ballast
    medium_box.publish(publisher, "1.0.0", "", "latest", weights=weights)
    medium_box.enrol_offline(state, publisher)
    return folder


def import_s(service: harness.Service, medium: Path) -> float:
    began = time.perf_counter()
    body = json.dumps({"path": str(medium), "models": [medium_box.NAME]})
    connection = http.client.HTTPConnection(*service.address, timeout=300.0)
    with contextlib.closing(connection):
        connection.request("POST", "/hearth/v1/import", body)
        last = [json.loads(line) for line in connection.getresponse()][-1]
    if last.get("status") != "success":
        raise SystemExit(f"the import failed: {last}")
    return time.perf_counter() - began


def imports(options: argparse.Namespace, weights: bytes, times_ms: list[float]) -> list[float]:
    """Seconds of each import; `times_ms` gets what /healthz took meanwhile."""
    took = []
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        state = Path(folder) / "state"
        medium = make_stick(Path(folder) / "stick", state, weights)
        with harness.hearth_service(HEARTH_STATE=str(state), HEARTH_ENGINE="echo") as service:
            for _ in range(options.rounds):
                with watched(service, times_ms):
                    took.append(import_s(service, medium))
                harness.call(
                    service, "DELETE", "/api/delete", body=json.dumps({"model": medium_box.NAME})
                )
    return took


# -- stalls ------------------------------------------------------------------------------------


def _watch(address: tuple[str, int], pipe: Connection) -> None:
    """Ask until told to stop; sends the times in milliseconds."""
    connection = http.client.HTTPConnection(*address, timeout=60.0)
    times = []
    pipe.send(None)
    while not pipe.poll():
        asked = time.perf_counter()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        times.append((time.perf_counter() - asked) * 1e3)
        time.sleep(PAUSE_S)
    pipe.send(times)


@contextlib.contextmanager
def watched(service: harness.Service, times_ms: list[float]) -> Iterator[None]:
    """Fills `times_ms` with what /healthz took while the block ran."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    watcher = multiprocessing.get_context("spawn").Process(
        target=_watch, args=(service.address, theirs)
    )
    watcher.start()
    ours.recv()
    try:
        yield
    finally:
        ours.send(None)
        times_ms += ours.recv()
        watcher.join()


# -- a kill at half ----------------------------------------------------------------------------


def refetched_mib(model: str, settings: dict[str, str]) -> float:
    """What a pull that is killed at half fetches again after the restart."""
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as state:
        with (
            contextlib.suppress(OSError, http.client.HTTPException, ValueError),
            harness.hearth_service(HEARTH_STATE=state, **settings) as service,
        ):
            had = 0
            for line in progress(service, model):
                had = max(had, line.get("completed", 0))
                if 2 * had >= line.get("total", 0) > MIB:
                    os.kill(service.process(), signal.SIGKILL)
                    break
        with harness.hearth_service(HEARTH_STATE=state, **settings) as service:
            resumed = next(
                line["completed"]
                for line in progress(service, model)
                if line.get("total", 0) > MIB and line.get("completed", 0)
            )
        return max(0, had - resumed) / MIB  # the last chunks may arrive before they are told


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    conditions = harness.machine() | {
        "mib": options.mib,
        "vocab": options.vocab,
        "rounds": options.rounds,
    }
    pulls, curls, idle, busy, carrying = [], [], [], [], []
    weights = tiny_llama_bytes(ballast_mib=options.mib, vocab=options.vocab)
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as folder:
        registry = start_docker_registry(Path(folder) / "registry")
        try:
            digest = publish(registry, weights)
            model = f"{registry.address}/library/m:1"
            url = f"http://{registry.address}/v2/library/m/blobs/{digest}"
            with harness.hearth_service() as service:
                with watched(service, idle):
                    time.sleep(2.0)
                curl_s(url, Path(folder))  # brings the registry's file into the page cache
                for _ in range(options.rounds):
                    curls.append(curl_s(url, Path(folder)))
                    with watched(service, busy):
                        pulls.append(pull_s(service, model))
                    harness.call(
                        service, "DELETE", "/api/delete", body=json.dumps({"model": model})
                    )
            lost = [refetched_mib(model, {}) for _ in range(options.kills)]
        finally:
            registry.stop()
    imported = imports(options, weights, carrying)
    measured = {
        "pull_s": pulls,
        "import_s": imported,
        "curl_s": curls,
        "ratio": harness.Spread.of([p / c for p, c in zip(pulls, curls, strict=True)]).median,
        "stall_idle_ms": {p: harness.percentile(idle, p) for p in (50, 99, 100)},
        "stall_pull_ms": {p: harness.percentile(busy, p) for p in (50, 99, 100)},
        "stall_import_ms": {p: harness.percentile(carrying, p) for p in (50, 99, 100)},
        "refetched_mib": lost,
    }
    rows = [
        ["pull, s", harness.Spread.of(pulls).text(2)],
        ["curl and sha256sum, s", harness.Spread.of(curls).text(2)],
        ["ratio, median", f"{measured['ratio']:.2f}"],
        ["/healthz idle, ms: p50 p99 max", _three(measured["stall_idle_ms"])],
        ["/healthz while pulling, ms: p50 p99 max", _three(measured["stall_pull_ms"])],
        ["import from a folder, s", harness.Spread.of(imported).text(2)],
        ["/healthz while importing, ms: p50 p99 max", _three(measured["stall_import_ms"])],
    ]
    if lost:
        rows.append(["fetched again after SIGKILL at half, MiB", harness.Spread.of(lost).text(0)])
    harness.report("install", conditions, ["install of one model", "value"], rows, measured)


def _three(figures: dict[int, float]) -> str:
    return " ".join(f"{figures[p]:.1f}" for p in (50, 99, 100))


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.arguments("Cost of installing a model")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=320, help="tokens in the header")
    parser.add_argument("--rounds", type=int, help="pulls; default 5, with --quick 2")
    parser.add_argument("--kills", type=int, default=1)
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (2 if options.quick else 5)
    return options


if __name__ == "__main__":
    main()
