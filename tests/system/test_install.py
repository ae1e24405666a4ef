"""The installer in a booted Debian without a network: install, update, go back, leave nothing."""

import json
import re
import shutil
import signal
import subprocess
import time

import pytest

from tests.fakes.waiting import wait_for
from tests.system import own_python
from tests.system.distributions import DEBIAN_12
from tests.system.installing import (
    W,
    attempts,
    chats,
    condition,
    enabled,
    install,
    refusal,
    reseal,
    tree,
    version_of,
    with_releases,
)
from tests.system.release_stand import BROKEN, GOOD, NEXT
from tools.release import seal, wheels

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

INSTALL_LIMIT_S = 60
PRESET = {
    "hearth.socket", "hearth.service", "hearth-health.timer", "hearth-scrub.timer",
    "hearth-settle.service", "hearth-update.path", "hearth-update.timer",
}  # fmt: skip


@pytest.fixture
def box(booted, stand):
    return with_releases(booted(), stand)


def links(box):
    """The releases that `current` and `previous` name."""
    return [box.run("readlink", "-f", f"/opt/hearth/{name}").stdout.strip().rpartition("/")[2]
            for name in ("current", "previous")]  # fmt: skip


def test_a_life_without_a_network(box):
    before = tree(box)
    links_there = box.run("ip", "-o", "link").stdout.splitlines()
    assert len(links_there) == 1, links_there
    tried = attempts(box)
    started = time.monotonic()
    done = install(box, GOOD)
    took_s = time.monotonic() - started
    print(done.stdout)
    print(f"installed in {took_s:.1f} s; {attempts(box) - tried} packets tried to leave")
    assert attempts(box) == tried
    assert took_s <= INSTALL_LIMIT_S
    assert version_of(box) == GOOD
    print("chat:", chats(box))

    first, pid = tree(box), box.show("hearth.service", "MainPID")
    started = time.monotonic()
    install(box, GOOD)
    print(f"second run in {time.monotonic() - started:.1f} s")
    assert {k: v for k, v in tree(box).items() if "/var/lib/hearth" not in k} == {
        k: v for k, v in first.items() if "/var/lib/hearth" not in k
    }
    assert box.show("hearth.service", "MainPID") == pid

    started = time.monotonic()
    done = box.run("hearth", "update", f"{W}/{NEXT}", timeout=300)
    print(done.stdout, f"updated in {time.monotonic() - started:.1f} s")
    assert version_of(box) == NEXT
    assert links(box) == [NEXT, GOOD]

    started = time.monotonic()
    done = box.run("hearth", "update", f"{W}/{BROKEN}", check=False, timeout=300)
    print(done.stdout, f"back after {time.monotonic() - started:.1f} s")
    refusal(
        done, f"Hearth {BROKEN} did not prove itself", "this release is broken", f"{NEXT} is back"
    )
    assert version_of(box) == NEXT
    assert links(box) == [NEXT, GOOD]
    assert not box.path(f"/opt/hearth/releases/{BROKEN}").exists()
    assert chats(box)
    told = condition(box, "hearth_returned")
    assert f"Hearth {BROKEN} did not prove itself" in told["text"]
    assert "this release is broken" in told["text"]
    assert f"{NEXT} serves as before" in told["cure"]
    assert re.search(rf"update +{BROKEN} came back", box.run("hearth", "status").stdout)

    box.run("hearth", "update", "--rollback", timeout=300)
    assert version_of(box) == GOOD
    assert condition(box, "hearth_returned") is None
    assert f"Hearth {GOOD} serves since" in condition(box, "hearth_updated")["text"]
    assert links(box) == [GOOD, NEXT]
    listed = json.loads(box.run("hearth", "update", "--list", "--json").stdout)["releases"]
    assert {r["version"]: (r["current"], r["previous"]) for r in listed} == {
        GOOD: (True, False), NEXT: (False, True)
    }  # fmt: skip

    done = box.run("/opt/hearth/current/install.sh", "--uninstall")
    print(done.stdout)
    assert tree(box) == before
    assert "hearth" not in box.run("cat", "/etc/passwd", "/etc/group").stdout
    assert "hearth" not in box.run("systemctl", "list-unit-files", "--no-legend").stdout
    assert "hearth" not in box.run("systemctl", "list-units", "--no-legend").stdout
    assert box.run("systemctl", "is-system-running", check=False).stdout.strip() == "running"


def cut_after(box, lines, version):
    """Run the installer, and cut the power when it has said so many lines. Whether it was cut."""
    command = box.enter(f"{W}/{version}/install.sh")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        said = []
        for line in running.stdout:
            said.append(line.strip())
            if len(said) == lines:
                box.cut_power()
                break
        is_cut = len(said) == lines
        running.send_signal(signal.SIGKILL)
    print(f"cut after: {said[-1]}" if is_cut else "it ended before")
    return is_cut


@pytest.mark.long
def test_a_power_cut_after_any_step_leaves_a_machine_that_serves(box):
    install(box, GOOD)
    seen = set()
    for lines in range(1, 40):
        box.run("rm", "-rf", f"/opt/hearth/releases/{NEXT}", "/opt/hearth/previous")
        if not cut_after(box, lines, NEXT):
            break
        box.boot()
        wait_for(lambda: version_of(box) in {GOOD, NEXT}, 60)
        wait_for(lambda: not box.path("/opt/hearth/trial").exists(), 60)
        seen.add(version_of(box))
        assert links(box)[0] == version_of(box)
        if version_of(box) == NEXT:
            install(box, GOOD)
            assert version_of(box) == GOOD
    assert version_of(box) == NEXT, "the run that was not cut"
    assert lines > 6
    assert seen == {GOOD, NEXT}


def test_an_update_that_was_cut_and_is_broken_goes_back_at_the_next_boot(box):
    install(box, GOOD)
    with subprocess.Popen(
        box.enter(f"{W}/{BROKEN}/install.sh"), stdout=subprocess.PIPE, text=True
    ) as running:
        for line in running.stdout:
            if "wait until" in line:
                box.cut_power()
                break
        running.kill()
    assert box.path("/opt/hearth/current").readlink().name == BROKEN
    box.boot()
    wait_for(lambda: version_of(box) == GOOD, 120)
    wait_for(lambda: not box.path("/opt/hearth/trial").exists(), 60)
    assert links(box)[0] == GOOD
    assert f"{GOOD} is back" in condition(box, "hearth_returned")["text"]


def test_a_folder_of_another_system_is_made_ready_and_serves_when_booted(booted, stand):
    box = booted(boots=False)
    (box.root / "boot/firmware").mkdir(parents=True)  # a Raspberry Pi's
    command = ["tools/install.sh", "--root", str(box.root), "--wheelhouse", stand.wheelhouse(GOOD)]
    print(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for rules in ("70-hearth-import.rules", "71-hearth-leds.rules"):
        assert box.path(f"/etc/udev/rules.d/{rules}").is_file()
    assert box.path("/etc/systemd/system/hearth-import@.service").is_file()
    for drop_in in ("hearth.service.d/leds.conf", "hearth-health.service.d/vcio.conf"):
        assert box.path(f"/etc/systemd/system/{drop_in}").is_file()
    assert enabled(box) == PRESET
    assert box.boot() == "running", box.journal()
    wait_for(lambda: version_of(box) == GOOD, 60)
    assert chats(box)


def test_a_system_without_a_python_gets_the_one_that_the_wheelhouse_brings(booted, stand, tmp_path):
    box = booted(boots=False)
    own_python.take_away(box, "python3", "python3.11")
    made = shutil.copytree(stand.wheelhouse(GOOD), box.path(f"{W}/own"))
    archive = own_python.pack(DEBIAN_12.root(), "3.11", tmp_path)
    wheels.add_interpreter(archive, made)
    reseal(made, stand)
    box.boot()
    assert not box.path("/usr/bin/python3").exists()
    print(box.run(f"{W}/own/install.sh", timeout=300).stdout)
    assert version_of(box) == GOOD
    assert chats(box)
    python = box.run("readlink", "-f", "/opt/hearth/current/bin/python").stdout.strip()
    assert python == f"/opt/hearth/releases/{GOOD}/python/bin/python3.11"
    with next(made.glob("interpreter/*")).open("ab") as packed:
        packed.write(b"x")
    done = box.run(f"{W}/own/install.sh", check=False)
    refusal(done, f"interpreter/{archive.name}", "copy it again", "nothing was installed")


def test_what_is_put_into_the_updates_folder_is_verified_and_taken(box, stand, tmp_path):
    install(box, GOOD)
    inbox = "/var/lib/hearth/updates"
    forged = shutil.copytree(stand.wheelhouse(NEXT), tmp_path / f"hearth-{NEXT}-forged")
    with (forged / "install.sh").open("a") as script:
        script.write("touch /forged\n")
    box.run("install", "-d", "-o", "hearth", inbox)
    box.copy(seal.tar(forged, tmp_path / "forged.tar"), f"{inbox}/forged.tar")
    wait_for(lambda: box.path(f"{inbox}/forged.tar.refused").exists(), 60)
    assert "install.sh is not what was signed" in box.journal("-u", "hearth-update")
    assert version_of(box) == GOOD
    assert not box.path("/forged").exists()
    assert "install.sh is not what was signed" in condition(box, "hearth_refused")["text"]
    good = seal.tar(stand.wheelhouse(NEXT), tmp_path / "good.tar")
    shutil.copy2(good, box.path(f"{inbox}/.good"))
    box.run("mv", f"{inbox}/.good", f"{inbox}/good.tar")
    wait_for(lambda: version_of(box) == NEXT, 120)
    wait_for(lambda: not box.path(f"{inbox}/good.tar").exists(), 60)
    assert condition(box, "hearth_refused") is None
