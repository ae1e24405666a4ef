"""The image of a Raspberry Pi as far as no hardware is needed: it boots and answers, tries a
new system by tryboot, keeps one that is good and returns from one that is not.

qemu starts the kernel directly; `pi_firmware.py` plays the firmware's part of tryboot.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.system import machine
from tests.system.image_disk import lay, prepared, run
from tests.system.pi_firmware import Pi

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(7200)]

TREE = Path(__file__).parents[2]
OS = "/usr/lib/hearth-os/hearth-os"
PATIENT = ("hearth.service", "hearth-good-boot.service")
LIMIT_S = 1800


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the image 0.1.0 and the update to 0.2.0: HEARTH_IMAGE_RPI, else built
    here."""
    if reason := machine.missing("mmdebstrap", "sfdisk", "zstd"):
        pytest.fail(reason)
    if shutil.which("qemu-system-aarch64") is None:
        pytest.fail("needs qemu-system-aarch64")
    if ready := os.environ.get("HEARTH_IMAGE_RPI"):
        return Path(ready)
    work = tmp_path_factory.mktemp("image")
    wheels = [TREE / "tools/wheelhouse", "--arch", "arm64", "--out", work]
    made = subprocess.run(wheels, check=True, capture_output=True, text=True).stdout.strip()
    for version in ("0.1.0", "0.2.0"):
        run(sys.executable, TREE / "images/build", "rpi", "--wheelhouse", made, "--out", work,
            "--version", version)  # fmt: skip
    return work


def test_a_pi_answers_at_its_first_start_and_returns_from_a_bad_system(built, tmp_path):
    pi = _with_waiting(built, "0.3.0", tmp_path, words="rdinit=/none")
    with pi.start() as box:
        print("power-on to API:", round(box.wait_ready(LIMIT_S)), "s")
        reply = box.call("POST", "/api/chat", {
            "model": "hearth", "stream": False, "messages": [{"role": "user", "content": "hi"}],
        })  # fmt: skip
        assert reply[0] == 200, reply
        assert reply[1]["message"]["content"]
        assert "Read-only" in box.run("touch", "/usr/x", check=False).errors
        box.run("systemctl", "start", "boot-complete.target", "hearth-claim", limit_s=LIMIT_S)
        assert {"autoboot.txt", "HEARTH-CLAIM.txt"} <= set(
            box.run("ls", "/boot/firmware").output.split()
        )
        failed = box.run("systemctl", "--failed", "--plain", "--no-legend").output
        assert failed == "", failed + box.run("journalctl", "-q", "-p", "warning").output
        assert "0.3.0: not tried yet" in box.run(OS, "status").output
        _restart(pi, box)
    with pi.start() as box:
        assert pi.selected == 3
        box.wait_for("Kernel panic", LIMIT_S)
        pi.wait_restart(box)
    with pi.start() as box:
        assert pi.selected == 2
        box.run("systemctl", "start", "hearth-tryboot", limit_s=LIMIT_S)
        status = box.run(OS, "status").output
        print("the new kernel died; the next start is the old system:", status)
        assert "running   0.1.0 from /dev/vda4" in status
        assert "0.3.0: tried 1 of 2" in status


def test_a_good_system_is_tried_and_becomes_the_default(built, tmp_path):
    pi = _with_waiting(built, "0.2.0", tmp_path)
    with pi.start() as box:
        assert pi.selected == 2
        identity = box.run("cat", "/etc/machine-id").output
        _restart(pi, box)
    with pi.start() as box:
        assert pi.selected == 3
        print("trial, power-on to API:", round(box.wait_ready(LIMIT_S)), "s")
        box.run("systemctl", "start", "boot-complete.target", limit_s=LIMIT_S)
        watch = "while systemctl -q is-active hearth-trial; do sleep 1; done"
        box.run("sh", "-c", watch, limit_s=LIMIT_S)
        status = box.run(OS, "status").output
        print("it is good:", status)
        assert "running   0.2.0 from /dev/vda5\n" in status
        box.kill()  # the power goes
    assert pi.autoboot() == "[all]\ntryboot_a_b=1\nboot_partition=3\n[tryboot]\nboot_partition=2\n"
    with pi.start() as box:
        assert pi.selected == 3
        assert box.run("cat", "/etc/machine-id", limit_s=LIMIT_S).output == identity
        status = box.run(OS, "status").output
        print("after the power cut:", status)
        assert "running   0.2.0 from /dev/vda5\n" in status


def _restart(pi, box):
    """Restart in good order, once the unit that asks for a trial is there."""
    box.run("systemctl", "start", "hearth-tryboot", limit_s=LIMIT_S)
    box.run("systemctl", "reboot", "--no-block", limit_s=LIMIT_S)
    pi.wait_restart(box, LIMIT_S)


def _with_waiting(built, version, folder, words=""):
    """A box with 0.1.0 on whose other place 0.2.0 waits as `version`, with `words` for its kernel.
    It is laid there from outside, as `hearth-os update` does from inside: that takes an emulated
    box ten minutes, and tests/unit/test_tryboot.py shows it."""
    work = folder / "new"
    with tarfile.open(built / "hearth-rpi-0.2.0.update") as archive:
        archive.extractall(work, filter="data")
    for name in ("boot.fat", "root.ext4"):
        run("zstd", "-q", "-d", work / f"{name}.zst", "-o", work / name)
    fat, line = work / "boot.fat", work / "cmdline.txt"
    run("mcopy", "-i", fat, "::cmdline.txt", line)
    line.write_text(f"{words} {line.read_text()}".strip())
    run("mcopy", "-o", "-i", fat, line, "::cmdline.txt")
    waiting = json.dumps({"version": version, "tries": 2, "began": False})
    image, data = built / "hearth-rpi-0.1.0.img", {"var/lib/hearth-os/waiting.json": waiting}
    disk = prepared(image, folder, "rpi", PATIENT, data)
    lay(fat, disk, "rpi", "hearth-boot-b")
    lay(work / "root.ext4", disk, "rpi", "hearth-root-b")
    shutil.rmtree(work)
    return Pi(disk, folder)
