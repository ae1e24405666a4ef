"""Fixtures for all tests: what must not leak, small model files, and a real service to talk to."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from tests.fakes.docker_registry import start_docker_registry
from tests.fakes.gguf_builder import tiny_llama_gguf

START_LIMIT_S = 30.0
NO_REGISTRY = "http://127.0.0.1:1"  # where nothing listens: no test asks the world for a model


def pytest_configure():
    """Programs that we start must hear Ctrl+C, also when this run is a job that ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_blocking_calls():
    """A blocking call on the event loop fails the test that made it."""
    with blockbuster_ctx(["appliance", "engine"]) as blockbuster:
        yield blockbuster


@pytest.fixture(autouse=True)
def nothing_left_running():
    """A test leaves the threads and child processes that it found."""
    before = _running()
    yield
    deadline = time.monotonic() + 5  # a child's watcher thread ends when the child is reaped
    while (left := _running() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, f"left running: {left}"


def _running():
    """Names of threads, and ids of child processes that are not just waiting to be reaped."""
    threads = {thread.name for thread in threading.enumerate() if not thread.daemon}
    children = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            children |= set((task / "children").read_text().split())
    return threads | {f"process {pid}" for pid in children}


@pytest.fixture(scope="module")
def docker_registry(tmp_path_factory):
    """A real registry on loopback for all tests of a file."""
    registry = start_docker_registry(tmp_path_factory.mktemp("registry"))
    yield registry
    registry.stop()


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory):
    """A random llama model of half a megabyte with a ChatML template, really loadable."""
    return tiny_llama_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@dataclass
class Service:
    """A running `hearth serve`; `call` speaks JSON to it."""

    process: subprocess.Popen
    url: str
    state: Path
    log_path: Path
    environ: dict = field(repr=False)

    @property
    def log(self):
        return self.log_path.read_text()

    def call(self, method, path, body=None, headers=None):
        """(status, body) of one request; the body parsed if it is one JSON document."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, method=method, headers=headers or {}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, _parsed(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _parsed(error.read())

    def create(self, name, gguf, **fields):
        """Upload a GGUF and make a model of it."""
        import hashlib

        data = Path(gguf).read_bytes()
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        upload = urllib.request.Request(f"{self.url}/api/blobs/{digest}", data=data, method="POST")
        with urllib.request.urlopen(upload, timeout=60):
            pass
        body = {"model": name, "files": {"m.gguf": digest}, "stream": False, **fields}
        status, answer = self.call("POST", "/api/create", body)
        assert status == 200, answer

    def workers(self):
        """Process ids of the living worker processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def stop(self):
        """SIGTERM, then the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def _parsed(data):
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


def _start(state, *, prefix=(), log_path=None, **settings):
    """prefix  words of a command that becomes the service in the end, as `env` does"""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTH_", "OLLAMA_"))}
    environ |= {"HEARTH_HOST": "127.0.0.1:0", "HEARTH_ENGINE": "echo", "HEARTH_DISCOVERY": "off"}
    environ |= {"HEARTH_REGISTRY": NO_REGISTRY, "HEARTH_TRANSFER_TRIES": "1"}
    environ |= {"HEARTH_STATE": str(state), "HEARTH_MEMORY_RESERVE_MIB": "64"}
    environ |= {f"HEARTH_{name.upper()}": str(value) for name, value in settings.items()}
    state.mkdir(parents=True, exist_ok=True)
    log_path = log_path or state / "service.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "appliance", "serve"],
            env=environ,
            stdout=log,
            stderr=log,
        )
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"ready address=(\S+)", log_path.read_text()):
            return Service(process, found[1], state, log_path, environ)
        time.sleep(0.02)
    process.kill()
    process.wait()
    raise RuntimeError(f"the service did not start:\n{log_path.read_text()}")


def _starter(folder):
    """A function that starts services with settings of their own; all are ended afterwards."""
    started = []

    def start(state=None, **settings):
        service = _start(state or folder / f"state{len(started)}", **settings)
        started.append(service)
        return service

    yield start
    for service in started:
        if service.process.poll() is None:
            service.stop()
        print(service.log)


@pytest.fixture
def start_service(tmp_path):
    """Starts services that end with the test: `start_service(max_queue=1)`."""
    yield from _starter(tmp_path)


@pytest.fixture(scope="module")
def module_service(tmp_path_factory):
    """Starts services that end with the file's last test."""
    yield from _starter(tmp_path_factory.mktemp("services"))


@pytest.fixture(scope="module")
def service(module_service, tiny_gguf):
    """One service with the echo engine and the model `echo` for all tests of a file."""
    running = module_service()
    running.create("echo", tiny_gguf)
    return running
