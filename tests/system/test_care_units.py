"""The timers' services in a booted systemd: what the health probe reads under its sandbox reaches
the doctor, and the weekly scrub reaches the service."""

import json

import pytest

from tests.system.booted import LAUNCHER, REPOSITORY

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

UNITS = (
    *("hearth.service", "hearth.socket", "hearth-health.service", "hearth-health.timer"),
    *("hearth-scrub.service", "hearth-scrub.timer"),
)
HEALTH = "/run/hearth-health/health.json"


@pytest.fixture
def box(booted):
    found = booted(boots=False)
    add_units(found)
    assert found.boot() == "running", found.journal()
    return found


def add_units(box, *more):
    """Have Hearth and its units in a container, before it boots."""
    box.add_running_hearth()
    # a release's own interpreter, which finds the package also when isolated (-I)
    words = box.path(LAUNCHER).read_text()
    python = words.replace('-m appliance "$@"', '"$@"').replace("exec", "shift\nexec")
    box.write(LAUNCHER.with_name("python"), python, 0o755)
    for unit in (*UNITS, *more):
        box.copy(REPOSITORY / "systemd" / unit, f"/etc/systemd/system/{unit}")
    for folder in ("sysusers.d", "tmpfiles.d", "timesyncd.conf.d", "journald.conf.d"):
        name = f"{folder}/hearth.conf"
        where = "/etc/systemd" if folder.endswith("d.conf.d") else "/etc"
        box.copy(REPOSITORY / "systemd" / name, f"{where}/{name}")


def test_the_probe_reads_under_its_sandbox(box):
    box.run("systemctl", "start", "hearth-health.service")
    told = json.loads(box.run("cat", HEALTH).stdout)
    print("hearth-health.service wrote", told)
    assert told["format"] == 1
    mode = box.run("stat", "-c", "%U %a", HEALTH, "/run/hearth-health").stdout
    assert mode.split() == ["root", "644", "root", "755"]
    box.run("systemctl", "start", "hearth-health.service")  # over its own file
    again = json.loads(box.run("cat", HEALTH).stdout)
    assert again["uptime_s"] > told["uptime_s"]
    box.run("systemctl", "start", "hearth-health.timer", "hearth-scrub.timer")
    listed = box.run("systemctl", "list-timers", "--all").stdout
    assert "hearth-health.timer" in listed
    assert "hearth-scrub.timer" in listed
    assert "hearth-health" not in box.journal("-u", "hearth-health.service")  # a quiet journal


def test_a_turn_of_the_probe_leaves_no_trace_on_the_disk(box):
    """There is one each two minutes, for years, on a memory card."""
    box.run("systemctl", "start", "hearth-health.service")
    folders = ("stat", "-c", "%y", "/tmp", "/var/tmp")
    before = box.run(*folders).stdout
    shown = box.run("journalctl", "-q", "-n", "0", "--show-cursor").stdout
    cursor = shown.strip().removeprefix("-- cursor: ")
    box.run("systemctl", "start", "hearth-health.service")
    assert box.run(*folders).stdout == before
    said = box.run("journalctl", "-q", "-p", "warning", "_PID=1", f"--after-cursor={cursor}")
    assert said.stdout == ""


def test_the_scrub_asks_the_service(box):
    refused = box.run("systemctl", "start", "hearth-scrub.service", check=False)
    assert refused.returncode != 0  # nothing to ask: the service does not run
    box.run("systemctl", "start", "hearth.service", check=False)
    box.wait_active("hearth.service")
    box.run("systemctl", "start", "hearth-scrub.service")
    said = box.journal("-u", "hearth-scrub.service")
    assert "nothing is damaged" in said, said
