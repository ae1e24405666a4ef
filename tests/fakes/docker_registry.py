"""Debian's docker-registry as a process on loopback: a real registry for transfers to talk to."""

import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

START_LIMIT_S = 30
_CONFIG = """
version: 0.1
log: {{level: info}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:0"}}
"""


@dataclass
class DockerRegistry:
    """A running registry; `address` is host:port."""

    process: subprocess.Popen
    address: str
    root: Path

    def blob_path(self, digest):
        """Where the registry keeps a blob's bytes."""
        plain = digest.removeprefix("sha256:")
        return self.root / "docker/registry/v2/blobs/sha256" / plain[:2] / plain / "data"

    def manifest(self, repository, tag):
        """A manifest's own bytes."""
        kinds = "application/vnd.docker.distribution.manifest.v2+json"
        kinds += ", application/vnd.oci.image.manifest.v1+json"
        url = f"http://{self.address}/v2/{repository}/manifests/{tag}"
        request = urllib.request.Request(url, headers={"Accept": kinds})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)


def require_docker_registry():
    """The program's path; skips the test where it is missing, except in CI, which installs it."""
    path = shutil.which("docker-registry")
    if path is None:
        message = "docker-registry is missing: apt-get install docker-registry"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def start_docker_registry(folder):
    """A registry that keeps its blobs in `folder`, once it listens."""
    program = require_docker_registry()
    folder.mkdir(parents=True, exist_ok=True)
    config, log_path = folder / "config.yml", folder / "log"
    config.write_text(_CONFIG.format(root=folder / "data"))
    with log_path.open("wb") as log:
        process = subprocess.Popen([program, "serve", config], stdout=log, stderr=log)
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"listening on (127\.0\.0\.1:\d+)", log_path.read_text()):
            return DockerRegistry(process, found[1], folder / "data")
        time.sleep(0.02)
    process.kill()
    process.wait()
    raise RuntimeError(f"docker-registry did not start:\n{log_path.read_text()}")
