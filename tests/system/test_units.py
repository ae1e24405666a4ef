"""The units in a booted systemd: start, hang, crash, sandbox. Prints what it measured."""

import json
import shutil
import subprocess
import sys
import time

import pytest

from tests.fakes.waiting import wait_for
from tests.system.booted import LAUNCHER, REPOSITORY

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

UNITS = REPOSITORY / "systemd"
URL = "http://127.0.0.1:11434"
KEY = "hearth_fromfile_" + "k" * 52
# Asks for the version again and again; prints what happened and the longest time of one answer.
CLIENT = """
import json, sys, time, urllib.error, urllib.request
refused = broken = served = 0
longest, end = 0.0, time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    began = time.monotonic()
    try:
        urllib.request.urlopen("http://127.0.0.1:11434/api/version", timeout=60).read()
        served += 1
        longest = max(longest, time.monotonic() - began)
    except urllib.error.URLError as error:
        refused += "refused" in str(error)
        broken += "refused" not in str(error)
    except OSError:
        broken += 1  # it was being answered when the service was killed
    time.sleep(0.01)
print(json.dumps({"served": served, "refused": refused, "broken": broken, "longest": longest}))
"""


def install(box):
    """What the installer does with the units, for the code of this test run."""
    box.add_running_hearth()
    for unit in ("hearth.service", "hearth.socket"):
        box.copy(UNITS / unit, f"/etc/systemd/system/{unit}")
    for folder in ("sysusers.d", "tmpfiles.d"):
        box.copy(UNITS / folder, f"/etc/{folder}")
    box.write("/etc/hearth/credentials/admin-key", KEY + "\n", 0o600)
    drop_in(box, "test", "[Service]\nEnvironment=HEARTH_DISCOVERY=off HEARTH_ENGINE=llama\n")
    for unit, target in {"hearth.service": "multi-user", "hearth.socket": "sockets"}.items():
        wants = box.path(f"/etc/systemd/system/{target}.target.wants/{unit}")
        wants.parent.mkdir(parents=True, exist_ok=True)
        wants.symlink_to(f"/etc/systemd/system/{unit}")


def drop_in(box, name, text):
    box.write(f"/etc/systemd/system/hearth.service.d/{name}.conf", text)


@pytest.fixture
def box(booted):
    made = booted(boots=False)
    install(made)
    return made


def main_pid(box):
    return int(box.show("hearth.service", "MainPID"))


def start_client(box, seconds):
    command = box.in_netns(sys.executable, "-c", CLIENT, seconds)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def answers(box):
    return box.get(f"{URL}/api/version", "-m", "60")[0] == 200


def ask(box, *options, model="hearth"):
    body = json.dumps({"model": model, "prompt": "Who are you?", "stream": False})
    status, text = box.get(f"{URL}/api/generate", "-d", body, *options)
    assert status == 200, f"{text}\n{box.journal('-u', 'hearth.service')}"
    return json.loads(text)


def as_service(box, script):
    """Run a script as the service's user, in its namespaces, without its filters."""
    pid = main_pid(box)
    enter = ["nsenter", "-t", pid, "-m", "-U", "--preserve-credentials"]
    return box.run(*enter, "sh", "-c", script, check=False)


def test_it_starts_says_so_and_stops_in_order(box):
    assert box.boot() == "running", box.journal()
    box.wait_active("hearth.service")
    assert answers(box)
    assert "serving, 0 requests running" in box.run("systemctl", "status", "hearth").stdout
    assert ask(box)["done"]
    wait_for(lambda: "models loaded: hearth" in box.show("hearth.service", "StatusText"))
    print("active after", box.run("systemd-analyze", "critical-chain", "hearth.service").stdout)
    box.run("systemctl", "stop", "hearth.socket", "hearth.service")
    assert box.show("hearth.service", "Result") == "success"
    assert box.run("ls", "/var/lib/hearth/running", check=False).returncode != 0
    assert not answers(box)


def test_a_killed_service_refuses_nobody(box):
    box.boot()
    box.wait_active("hearth.service")
    assert answers(box)
    client = start_client(box, 8)
    time.sleep(1)  # the client is in the midst of its questions
    old = main_pid(box)
    killed = time.monotonic()
    box.run("kill", "-9", old)
    wait_for(lambda: main_pid(box) not in {0, old} and answers(box))
    print(f"kill -9 to serving: {time.monotonic() - killed:.2f} s")
    seen = json.loads(client.communicate(timeout=60)[0])
    print(f"the client saw: {seen}")
    assert seen["refused"] == 0
    assert seen["broken"] <= 1
    assert seen["served"] > 50


def test_a_restart_by_hand_refuses_nobody(box):
    box.boot()
    box.wait_active("hearth.service")
    client = start_client(box, 6)
    box.run("systemctl", "restart", "hearth.service")
    seen = json.loads(client.communicate(timeout=60)[0])
    print(f"the client saw: {seen}")
    assert seen["refused"] == seen["broken"] == 0


@pytest.mark.parametrize("seconds", [3, pytest.param(30, id="as-shipped")])
def test_a_hung_service_is_started_anew(box, seconds):
    drop_in(box, "watchdog", f"[Service]\nWatchdogSec={seconds}s\n")
    box.boot()
    box.wait_active("hearth.service")
    assert answers(box)
    old = main_pid(box)
    hung = time.monotonic()
    box.run("kill", "-STOP", old)
    wait_for(lambda: main_pid(box) not in {0, old} and answers(box), 90)
    print(f"hang to serving with WatchdogSec={seconds}: {time.monotonic() - hung:.1f} s")
    assert "watchdog" in box.journal("-u", "hearth.service").lower()


def test_the_sandbox_holds(box):
    box.boot()
    box.wait_active("hearth.service")
    assert ask(box)["done"]
    pid = main_pid(box)
    status = box.run("cat", f"/proc/{pid}/status").stdout
    for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1",
                 "Seccomp:\t2"):  # fmt: skip
        assert line in status
    assert as_service(box, "touch /var/lib/hearth/x && rm /var/lib/hearth/x").returncode == 0
    for path in ("/etc/x", "/usr/x", "/opt/x", "/boot/x", "/proc/sys/kernel/core_pattern"):
        assert as_service(box, f"echo > {path}").returncode != 0, path
    assert box.run("ls", "-A", "/root").stdout
    assert not as_service(box, "ls -A /root").stdout
    workers = box.run("pgrep", "-f", "engine.process.worker").stdout.split()
    assert len(workers) == 1
    worker = box.run("cat", f"/proc/{workers[0]}/status").stdout
    filters = [int(s.split("Seccomp_filters:\t")[1].split()[0]) for s in (status, worker)]
    assert filters[1] == filters[0] + 1, filters
    assert box.run("cat", f"/proc/{workers[0]}/oom_score_adj").stdout.strip() == "500"


def test_the_administrators_key_comes_from_a_credential(box):
    box.write("/etc/hearth/hearth.toml", 'access_lan = "keys"\n')
    box.boot()
    box.wait_active("hearth.service")
    outside = ["-H", "X-Forwarded-For: 203.0.113.9"]  # so that loopback is not "the box itself"
    right = ["-H", f"Authorization: Bearer {KEY}"]
    wrong = ["-H", f"Authorization: Bearer {KEY[:-1]}x"]
    assert box.get(f"{URL}/hearth/v1/keys", *outside, *right)[0] == 200, box.journal()
    assert box.get(f"{URL}/hearth/v1/keys", *outside, *wrong)[0] == 401
    box.path("/etc/hearth/credentials/admin-key").unlink()
    box.run("systemctl", "restart", "hearth.service")
    assert box.get(f"{URL}/hearth/v1/keys", *outside, *right)[0] == 401


def test_three_crashes_lead_to_safe_mode_and_a_restart_by_hand_out_of_it(box):
    box.boot()
    box.wait_active("hearth.service")
    for _ in range(3):
        assert answers(box)
        old = main_pid(box)
        box.run("kill", "-9", old)
        wait_for(lambda old=old: main_pid(box) not in {0, old} and answers(box))
    wait_for(lambda: "safe mode" in box.show("hearth.service", "StatusText"))
    body = json.dumps({"model": "hearth", "prompt": "Who are you?"})
    status, text = box.get(f"{URL}/api/generate", "-d", body)
    assert status == 503
    assert "safe mode" in text
    assert "crashed 3 times within 10 minutes" in text
    assert box.get(f"{URL}/")[0] == 200
    assert "safe_mode" in box.run(LAUNCHER, "doctor", "--json", check=False).stdout
    box.run("systemctl", "restart", "hearth.service")
    assert ask(box)["done"]


def test_a_broken_settings_file_stays_out_of_force(box):
    box.write("/etc/hearth/hearth.toml", 'access_lan = "keys"\n')
    box.boot()
    box.wait_active("hearth.service")
    box.write("/etc/hearth/hearth.toml", 'access_lan = "keys"\nkeep_alive = "soon"\n')
    box.run("systemctl", "restart", "hearth.service")
    doctor = box.run(LAUNCHER, "doctor", "--json", check=False)
    assert "settings_broken" in doctor.stdout, doctor
    assert "keep_alive = 'soon'" in box.journal("-u", "hearth.service")
    assert answers(box)


def test_offline_lets_nothing_leave_the_site(box):
    shutil.copy(UNITS / "drop-ins/offline.conf", box.path("/etc/systemd/system/hearth.service.d/"))
    box.boot()
    box.wait_active("hearth.service")
    assert answers(box)
    assert "::/0" in box.show("hearth.service", "IPAddressDeny")
    assert "192.168.0.0/16" in box.show("hearth.service", "IPAddressAllow")
