"""The installer on other distributions, booted: Debian 13, Ubuntu 24.04, and 22.04 with an own
Python; and from a source tree, with packages from the index."""

import os
import subprocess
import sys
import time

import pytest

from tests.system import own_python
from tests.system.booted import REPOSITORY
from tests.system.distributions import DEBIAN_13, UBUNTU_22_04, UBUNTU_24_04
from tests.system.installing import URL, attempts, chats, enabled, tree
from tests.system.release_stand import BUILD_LIMIT_S
from tools.release import wheels

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(1800)]

W = "/srv/release"


def wheelhouse(folder, *options):
    """What tools/wheelhouse makes of this tree for this machine's processor."""
    command = [REPOSITORY / "tools/wheelhouse", "--native", "--out", folder, *options]
    done = subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, timeout=BUILD_LIMIT_S,
        env=os.environ | {"PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def lives_and_leaves(box, made, python):
    """Install from the wheelhouse, use it, remove it; nothing is left."""
    box.copy(made, W)
    before, tried = tree(box), attempts(box)
    started = time.monotonic()
    print(box.run(f"{W}/install.sh", timeout=300).stdout)
    print(f"installed in {time.monotonic() - started:.1f} s; {attempts(box) - tried} packets")
    assert attempts(box) == tried
    assert box.get(f"{URL}/readyz")[0] == 200
    print("chat:", chats(box))
    said = box.run("/opt/hearth/current/bin/python", "--version").stdout
    assert said.startswith(f"Python {python}.")
    print(said, box.run("hearth", "status").stdout)

    units = sorted(f"/etc/systemd/system/{name}" for name in enabled(box))
    checked = box.run("systemd-analyze", "verify", "--man=no", *units, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert "Unknown" not in box.journal("_PID=1")
    assert box.run("systemctl", "--failed", "--no-legend").stdout == ""
    assert box.run("systemctl", "is-system-running", check=False).stdout.strip() == "running"

    box.run("/opt/hearth/current/install.sh", "--uninstall")
    assert tree(box) == before


@pytest.fixture(scope="module")
def universal(tmp_path_factory):
    """A wheelhouse for the Pythons of all distributions."""
    pythons = [f"--python={each}" for each in wheels.PYTHONS]
    return wheelhouse(tmp_path_factory.mktemp("universal"), *pythons)


@pytest.mark.parametrize(
    ("system", "python"),
    [(DEBIAN_13, "3.13"), (UBUNTU_24_04, "3.12")],
    ids=["debian-13", "ubuntu-24.04"],
)
def test_one_wheelhouse_is_for_all_of_them(booted, universal, system, python):
    if missing := system.missing():
        pytest.skip(missing)
    lives_and_leaves(booted(system=system), universal, python)


def test_ubuntu_22_04_gets_a_python_of_its_own(booted, tmp_path):
    if missing := UBUNTU_22_04.missing():
        pytest.skip(missing)
    archive = own_python.pack(UBUNTU_22_04.root(), "3.11", tmp_path)
    box = booted(system=UBUNTU_22_04, boots=False)
    own_python.take_away(box, "python3.11")
    box.boot()
    assert box.run("python3", "--version").stdout.startswith("Python 3.10")
    lives_and_leaves(box, wheelhouse(tmp_path, "--interpreter", archive), "3.11")


def from_source(box, *before):
    command = [*before, REPOSITORY / "tools/install.sh", "--root", box.root]
    return subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, timeout=BUILD_LIMIT_S,
        env=os.environ | {"PYTHON": sys.executable, "PIP_RETRIES": "1"},
    )  # fmt: skip


def test_a_source_tree_installs_with_packages_from_the_index(booted):
    box = booted(boots=False)
    done = from_source(box, "unshare", "--net")
    print(done.stderr)
    assert done.returncode == 1
    assert "wheelhouse: the package index cannot be reached (" in done.stderr
    assert done.stderr.endswith("could not be built (see above); nothing was installed\n")
    assert not box.path("/opt/hearth/releases").exists()
    done = from_source(box)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    box.boot()
    box.wait_active("hearth.service")
    print("chat:", chats(box))
