"""The container that other tests boot: it is whole, its own, and gone afterwards."""

import subprocess
from pathlib import Path

import pytest

from tests.system.booted import LAUNCHER, Booted

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]


def test_a_container_boots_whole_and_leaves_nothing(booted, tmp_path):
    with Booted(tmp_path, boots=False) as box:
        box.add_running_hearth()
        assert box.boot() == "running", box.journal()
        print(f"booted in {box.boot_s:.2f} s")
        assert box.run("cat", "/proc/1/comm").stdout == "systemd\n"
        assert "lo:" in (links := box.run("ip", "-o", "link").stdout)
        assert len(links.splitlines()) == 1, links
        assert "Commands:" in box.run(LAUNCHER, "--help").stdout
        box.write("/etc/motd", "kept")
        box.power_off()
        assert box.boot() == "running"
        assert box.run("cat", "/etc/motd").stdout == "kept"
        init, root, netns = box.enter()[2], box.root, box.netns
        box.cut_power()
        assert box.boot() == "running"
    assert not Path(f"/proc/{init}").exists()
    assert not root.is_mount()
    assert not Path(f"/run/netns/{netns}").exists()
    assert box.name not in subprocess.run(["ps", "ax"], capture_output=True, text=True).stdout


def test_two_containers_do_not_see_each_other(booted):
    one, other = booted(), booted()
    one.write("/root/mine", "")
    assert other.run("ls", "/root/mine", check=False).returncode != 0
    assert one.netns != other.netns
    with pytest.raises(AssertionError, match="false: 1"):
        one.run("false")
