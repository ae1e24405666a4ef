"""The cable is cut: a box in a network namespace that has no routes, fed by a stick alone.

A real service and the real command, both inside the namespace; the stick comes from a box outside.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.trust.repositories import read_root
from tests.fakes.publisher import Publisher
from tests.integration.bundle_box import says
from tests.integration.cli_process import HEARTH
from tests.integration.medium_box import NAME, OfflineBox, copied, enrol_offline, publish

PORT = 11434  # its own in every namespace
START_LIMIT_S = 30


@dataclass
class CutOffBox:
    """A service in a namespace of its own; `hearth` runs the command beside it."""

    process: subprocess.Popen
    state: Path

    def inside(self, *command, **env):
        """The finished program, run where the service is."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTH_", "OLLAMA_"))}
        environ |= {"HEARTH_STATE": str(self.state), **env}
        return subprocess.run(
            ["nsenter", "-t", str(self.process.pid), "-n", *map(str, command)],
            capture_output=True,
            text=True,
            env=environ,
            timeout=60,
        )

    def hearth(self, *arguments, code=0):
        done = self.inside(*HEARTH, *arguments)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def cut_off(tmp_path):
    """Starts the box; waits until it answers."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-n", "true"], check=False).returncode:
        pytest.skip("NOT TESTED: a box without a network; needs root and network namespaces")
    state = tmp_path / "island"
    state.mkdir()
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTH_", "OLLAMA_"))}
    environ |= {"HEARTH_ENGINE": "echo", "HEARTH_DISCOVERY": "off", "HEARTH_STATE": str(state)}
    environ |= {"HEARTH_MEMORY_RESERVE_MIB": "64", "HEARTH_HOST": f"127.0.0.1:{PORT}"}
    environ |= {"HEARTH_TRUST_HOSTS": "192.0.2.1"}
    up = f'ip link set lo up && exec "{sys.executable}" -m appliance serve'
    with (state / "service.log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", up], env=environ, stdout=log, stderr=log
        )
    box = CutOffBox(process, state)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while box.inside(*HEARTH, "status").returncode:
            assert process.poll() is None, (state / "service.log").read_text()
            assert time.monotonic() < deadline, (state / "service.log").read_text()
        yield box
    finally:
        process.terminate()
        process.wait(60)
        print((state / "service.log").read_text())


def test_a_release_comes_by_stick_into_a_box_without_a_network(cut_off, tmp_path, start_service):
    publisher = Publisher(tmp_path / "published")
    fingerprint = read_root(publisher.root).fingerprint
    publish(publisher, "1.0.0", "Be kind.", "latest", smoke=says("Be kind."))
    enrol_offline(tmp_path / "connected", publisher)
    connected = OfflineBox(start_service(tmp_path / "connected"))
    connected.imported(copied(publisher, tmp_path / "from-publisher"), NAME)
    stick = tmp_path / "stick"
    stick.mkdir()
    connected.hearth("export", NAME, stick)
    assert connected.service.stop() == 0

    # nowhere to go: no route, and a connection to anywhere fails at once
    assert cut_off.inside("ip", "route").stdout == ""
    assert cut_off.inside("ip", "-6", "route", "show", "default").stdout == ""
    assert "unreachable" in cut_off.hearth("pull", "192.0.2.1/acme/thing", code=1).lower()

    refusal = cut_off.hearth("import", stick, code=1)
    assert "no enrolled repository signs" in refusal
    add = ("trust", "add", "acme", stick, "--names", "acme/*", "--freshness-days", "0")
    cut_off.hearth(*add, "--fingerprint", fingerprint)
    assert "acme/assistant:latest is imported" in cut_off.hearth("import", stick)
    assert "Be kind." in cut_off.hearth("run", NAME, "hello")

    # an update by stick, and the old stick afterwards
    publish(publisher, "1.1.0", "Be brave.", "latest", smoke=says("Be brave."))
    newer = copied(publisher, tmp_path / "newer")
    cut_off.hearth("import", newer)
    assert "Be brave." in cut_off.hearth("run", NAME, "hello")
    assert "older than what this box has seen" in cut_off.hearth("import", stick, code=1)
    assert "Be brave." in cut_off.hearth("run", NAME, "hello")
    reports = sorted((newer / "hearth/reports").iterdir())
    assert len(reports) == 1
