"""The image of a Raspberry Pi as far as no hardware is needed: its root boots and answers.

qemu starts the kernel directly, so that the Pi's firmware and tryboot have no part in it.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system import machine

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(3600)]

BOOT = f"{1 + 64}M"  # of the first boot partition: after the table and `hearth-select`


def test_the_arm64_root_answers_from_the_built_in_model(tmp_path):
    """HEARTH_IMAGE_RPI names the folder of a built image: its wheels take ten minutes to make."""
    ready = os.environ.get("HEARTH_IMAGE_RPI")
    if ready is None:
        pytest.skip("HEARTH_IMAGE_RPI names no folder that `make image BOARD=rpi` has made")
    if shutil.which("qemu-system-aarch64") is None:
        pytest.fail("needs qemu-system-aarch64")
    disk, boot = tmp_path / "disk", tmp_path / "boot"
    boot.mkdir()
    image = next(Path(ready).glob("hearth-rpi-*.img"))
    subprocess.run(["cp", "--sparse=always", image, disk], check=True)
    subprocess.run(["truncate", "-s", "6G", disk], check=True)
    files = [f"::{name}" for name in ("vmlinuz", "initrd", "cmdline.txt")]
    subprocess.run(["mcopy", "-i", f"{disk}@@{BOOT}", *files, boot], check=True)
    words = (boot / "cmdline.txt").read_text().strip()
    with machine.Machine(
        disk, tmp_path / "qemu", arch="aarch64", accel="tcg", kernel=boot / "vmlinuz",
        initramfs=boot / "initrd", append=words,
    ) as box:  # fmt: skip
        print("power-on to API:", box.wait_ready(900), "s")
        reply = box.call("POST", "/api/chat", {
            "model": "hearth", "stream": False, "messages": [{"role": "user", "content": "hi"}],
        })  # fmt: skip
        assert reply[0] == 200, reply
        assert reply[1]["message"]["content"]
