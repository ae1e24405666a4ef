"""The overlay for Jetson, into a plain Debian for arm64 that says it is JetPack.

Its programs run under qemu-user. NVIDIA's own root, its GPU and its flashing have no part in this.
"""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from images.maker import base, board

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(3600)]

TREE = Path(__file__).parents[2]
ENABLED = ("hearth.socket", "hearth.service", "hearth-health.timer", "hearth-settle.service")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """HEARTH_WHEELS_ARM64, or a wheelhouse that is made here."""
    if ready := os.environ.get("HEARTH_WHEELS_ARM64"):
        return Path(ready)
    make = [TREE / "tools/wheelhouse", "--arch", "arm64", "--out", tmp_path_factory.mktemp("out")]
    return Path(subprocess.run(make, check=True, capture_output=True, text=True).stdout.strip())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    if shutil.which("qemu-aarch64-static") is None:
        pytest.fail("needs qemu-user-static")
    folder = tmp_path_factory.mktemp("rootfs")
    with tarfile.open(base.archive(board.load("rpi"), 0, fresh=False)) as archive:
        archive.extractall(folder, filter="tar")
    line = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    (folder / "etc/nv_tegra_release").write_text(line)
    yield folder
    shutil.rmtree(folder)


def test_a_jetsons_root_gets_hearth_and_the_way_to_its_gpu(root, wheels):
    devices = {each.name for each in (root / "dev").iterdir()}
    _overlay(root, wheels)
    drop_ins = root / "etc/systemd/system/hearth.service.d"
    assert {"gpu-jetson.conf", "leds.conf"} <= {each.name for each in drop_ins.iterdir()}
    assert "char-nvmap rw" in (drop_ins / "gpu-jetson.conf").read_text()
    for unit in ENABLED:
        _in_root(root, "systemctl", "is-enabled", unit)
    for unit in ("hearth-firstboot.service", "hearth-claim.service"):  # an image's only
        _in_root(root, "systemctl", "is-enabled", unit, status=1)
    said = _in_root(root, "/usr/local/bin/hearth", "--version")
    assert "0.1.0" in said
    assert {each.name for each in (root / "dev").iterdir()} == devices
    assert "is installed already" in _overlay(root, wheels)


def _overlay(root, wheels):
    done = subprocess.run(
        [TREE / "images/jetson/overlay", root, wheels], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def _in_root(root, *words, status=0):
    done = subprocess.run(["chroot", root, *words], capture_output=True, text=True)
    assert done.returncode == status, f"{words}: {done.stderr}{done.stdout}"
    return done.stdout
