"""What images/jetson/overlay refuses, before it changes anything."""

import os
import subprocess
from pathlib import Path

import pytest

OVERLAY = Path(__file__).parents[2] / "images/jetson/overlay"
JETPACK6 = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"


@pytest.fixture
def root(tmp_path):
    """A folder that says it is JetPack 6, and has no programs."""
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/nv_tegra_release").write_text(JETPACK6)
    return tmp_path / "root"


@pytest.fixture
def wheels(tmp_path):
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/RELEASE").write_text("version=0.1.0\narch=arm64\n")
    return tmp_path / "wheels"


def refusal(*words):
    done = subprocess.run([OVERLAY, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_another_root_is_refused(root, wheels):
    (root / "etc/nv_tegra_release").unlink()
    assert "it has no etc/nv_tegra_release" in refusal(root, wheels)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("# R35 (release), REVISION: 4.1\n", "this is L4T R35, Hearth needs R36 or newer"),
        ("nonsense\n", "does not tell the version of L4T: 'nonsense'"),
        ("", "does not tell the version of L4T: ''"),
    ],
)
def test_an_older_jetpack_is_refused(root, wheels, line, why):
    (root / "etc/nv_tegra_release").write_text(line)
    assert why in refusal(root, wheels)


def test_a_wheelhouse_for_another_machine_is_refused(root, wheels):
    (wheels / "RELEASE").write_text("version=0.1.0\narch=amd64\n")
    assert "is for amd64, a Jetson is arm64" in refusal(root, wheels)
    (wheels / "RELEASE").unlink()
    assert "is no wheelhouse" in refusal(root, wheels)


def test_folders_that_are_not_there_are_refused(root, wheels):
    assert "is no folder: give Linux_for_Tegra/rootfs" in refusal(root / "x", wheels)
    assert "is no folder: give the one that tools/wheelhouse made" in refusal(root, wheels / "x")


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may enter another system")
def test_a_root_whose_programs_do_not_run_here_is_refused(root, wheels):
    assert "apt-get install qemu-user-static binfmt-support" in refusal(root, wheels)


def test_wrong_usage_shows_how_to_use_it():
    done = subprocess.run([OVERLAY], capture_output=True, text=True)
    assert done.returncode == 2
    assert "images/jetson/overlay ROOTFS WHEELHOUSE" in done.stderr
