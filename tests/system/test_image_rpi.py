"""The image of a Raspberry Pi as far as no hardware is needed: it boots and answers, takes an
update by tryboot, keeps one that is good and returns from one that is not.

qemu starts the kernel directly; `pi_firmware.py` plays the firmware's part of tryboot.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from images.maker import update
from tests.system import machine
from tests.system.image_disk import prepared, run
from tests.system.pi_firmware import Pi

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(7200)]

TREE = Path(__file__).parents[2]
OS = "/usr/lib/hearth-os/hearth-os"
PATIENT = ("hearth.service", "hearth-good-boot.service")
ANSWER_LIMIT_S = 1800


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the image 0.1.0, the update to 0.2.0 and the key that signed it
    (`release.key`): HEARTH_IMAGE_RPI, else built here."""
    if reason := machine.missing("mmdebstrap", "sfdisk", "openssl"):
        pytest.fail(reason)
    if shutil.which("qemu-system-aarch64") is None:
        pytest.fail("needs qemu-system-aarch64")
    if ready := os.environ.get("HEARTH_IMAGE_RPI"):
        return Path(ready)
    work = tmp_path_factory.mktemp("image")
    key = work / "release.key"
    run("openssl", "genpkey", "-algorithm", "ed25519", "-out", key)
    wheels = [TREE / "tools/wheelhouse", "--arch", "arm64", "--sign", key, "--out", work]
    made = subprocess.run(wheels, check=True, capture_output=True, text=True).stdout.strip()
    for version in ("0.1.0", "0.2.0"):
        run(sys.executable, TREE / "images/build", "rpi", "--wheelhouse", made, "--sign", key,
            "--out", work, "--version", version)  # fmt: skip
    return work


def test_a_pi_answers_at_its_first_start_and_returns_from_a_bad_update(built, tmp_path):
    pi = Pi(prepared(built / "hearth-rpi-0.1.0.img", tmp_path, "rpi", PATIENT), tmp_path)
    bad = _bad_update(built, tmp_path)
    with pi.start(bad) as box:
        print("power-on to API:", round(box.wait_ready(ANSWER_LIMIT_S)), "s")
        reply = box.call("POST", "/api/chat", {
            "model": "hearth", "stream": False, "messages": [{"role": "user", "content": "hi"}],
        })  # fmt: skip
        assert reply[0] == 200, reply
        assert reply[1]["message"]["content"]
        assert "Read-only" in box.run("touch", "/usr/x", check=False).errors
        assert "autoboot.txt" in box.run("ls", "/boot/firmware").output
        failed = box.run("systemctl", "--failed", "--plain", "--no-legend").output
        assert failed == "", failed + box.run("journalctl", "-q", "-p", "warning").output
        print(box.run(OS, "update", "/dev/vdb", limit_s=ANSWER_LIMIT_S).output)
        assert "0.3.0: not tried yet" in box.run(OS, "status").output
        box.run("systemctl", "reboot", "--no-block")
        pi.wait_restart(box)
    with pi.start() as box:
        assert pi.selected == 3
        box.wait_for("Kernel panic", ANSWER_LIMIT_S)
        pi.wait_restart(box)
    with pi.start() as box:
        assert pi.selected == 2
        box.wait_ready(ANSWER_LIMIT_S)
        status = box.run(OS, "status").output
        print("the update's kernel died; the next start is the old system:", status)
        assert "running   0.1.0 from /dev/vda4" in status
        assert "0.3.0: tried 1 of 2" in status


def test_a_good_update_is_tried_and_becomes_the_default(built, tmp_path):
    pi = Pi(prepared(built / "hearth-rpi-0.1.0.img", tmp_path, "rpi", PATIENT), tmp_path)
    with pi.start(built / "hearth-rpi-0.2.0.update") as box:
        box.wait_ready(ANSWER_LIMIT_S)
        identity = box.run("cat", "/etc/machine-id").output
        print(box.run(OS, "update", "/dev/vdb", limit_s=ANSWER_LIMIT_S).output)
        box.run("systemctl", "reboot", "--no-block")
        pi.wait_restart(box)
    assert "[all]\ntryboot_a_b=1\nboot_partition=2\n" in pi.autoboot()
    with pi.start() as box:
        assert pi.selected == 3
        box.wait_ready(ANSWER_LIMIT_S)
        # Returns when it has become the default; a trial that fails restarts the machine instead.
        box.run("systemctl", "start", "boot-complete.target", limit_s=ANSWER_LIMIT_S)
        watch = "while systemctl -q is-active hearth-trial; do sleep 1; done"
        box.run("sh", "-c", watch, limit_s=ANSWER_LIMIT_S)
        status = box.run(OS, "status").output
        assert "running   0.2.0 from /dev/vda5\n" in status
        box.kill()  # the power goes
    assert pi.autoboot() == "[all]\ntryboot_a_b=1\nboot_partition=3\n[tryboot]\nboot_partition=2\n"
    with pi.start() as box:
        assert pi.selected == 3
        box.wait_ready(ANSWER_LIMIT_S)
        assert box.run("cat", "/etc/machine-id").output == identity
        print("after the power cut:", box.run(OS, "status").output)


def _bad_update(built, folder):
    """The good update as version 0.3.0, whose kernel finds no program to start; signed."""
    work = folder / "bad"
    with tarfile.open(built / "hearth-rpi-0.2.0.update") as archive:
        archive.extractall(work, filter="data")
    for name in ("boot.fat", "root.ext4"):
        run("zstd", "-q", "-d", work / f"{name}.zst", "-o", work / name)
    fat, words = work / "boot.fat", work / "cmdline.txt"
    run("mcopy", "-i", fat, "::cmdline.txt", words)
    words.write_text(f"rdinit=/none {words.read_text()}")
    run("mcopy", "-o", "-i", fat, words, "::cmdline.txt")
    facts = {"board": "rpi", "version": "0.3.0"}
    systems = {"root": work / "root.ext4", "boot": fat}
    update.write(folder / "bad.update", facts, systems, {}, 1, built / "release.key")
    return folder / "bad.update"
